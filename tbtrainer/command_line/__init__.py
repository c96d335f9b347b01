"""The command `tbtrainer`: it shows, compares, exports, follows and repairs runs."""
