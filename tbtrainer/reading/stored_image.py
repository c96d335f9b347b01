"""`StoredImage`: a picture that stays in its event file until it is read."""

from dataclasses import dataclass, field

from tbtrainer.reading.run_files import Folder
from tbtrainer.reading.values import ImageValue, decoded_or_none
from tbtrainer.redaction import shown


@dataclass(frozen=True)
class StoredImage:
    """A picture in an event file.

    Attributes:
        file: Name of the file in the run directory.
        offset: Where the value begins in the file.
        size: How many bytes the value has.
        number: Number of the picture in the value; writers may put several into one.
        folder: The run directory.
    """

    file: str
    offset: int
    size: int
    number: int
    folder: Folder = field(repr=False, compare=False)

    def read(self) -> bytes:
        """Returns the bytes of the PNG or other image file.

        Raises:
            OSError: The file cannot be read, or was rewritten since the run was read.
        """
        with self.folder.open(self.file) as file:
            file.seek(self.offset)
            data = file.read(self.size)
        value = decoded_or_none("image", data)
        if not isinstance(value, ImageValue) or self.number >= len(value.encoded):
            raise OSError(
                f"{shown(self.file)} was rewritten since the run was read; read the run again."
            )
        return value.encoded[self.number]
