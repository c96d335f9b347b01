/* Runs the compiled scanner over the files that are named, each in memory of exactly its size.
 *
 * Compiled with the sanitizers of the compiler, it ends with an error at the first byte that is read
 * or written outside of an array. The tables are as small as the first argument says.
 */

#include "../tbtrainer/reading/event_scan.c"

#include <stdio.h>
#include <stdlib.h>

static void *array(int64_t count, size_t size)
{
    return calloc((size_t)count, size);
}

int main(int arguments, char **argument)
{
    int64_t rows = atoll(argument[1]), slots = 2;
    while (slots < 2 * rows)
        slots *= 2;
    for (int file = 2; file < arguments; file++) {
        FILE *opened = fopen(argument[file], "rb");
        fseek(opened, 0, SEEK_END);
        int64_t size = ftell(opened);
        rewind(opened);
        uint8_t *data = malloc((size_t)size);
        if (fread(data, 1, (size_t)size, opened) != (size_t)size)
            return 2;
        fclose(opened);
        Table table = {array(rows, 1), array(rows, 4), array(rows, 8), array(rows, 8),
                       array(rows, 8), array(rows, 8), array(rows, 8), array(rows, 8),
                       array(rows, 8), array(rows, 8), array(rows, 8), array(slots, 4),
                       rows,           slots,          12345};
        Found found = {0};
        int64_t all = 0;
        for (;;) {
            memset(table.slot, 0, (size_t)slots * 4);
            int32_t status = tbtrainer_scan(data, size, &table, &found);
            all += found.rows;
            if (status == UNUSUAL)
                found.end += found.needed, found.resume = 0;
            else if (status != FULL)
                break;
        }
        printf("%s %lld\n", argument[file], (long long)all);
        free(data);
        void *arrays[] = {table.field, table.tag, table.step, table.wall_time, table.value,
                          table.offset, table.size, table.name_begin, table.name_size,
                          table.metadata_begin, table.metadata_size, table.slot};
        for (int one = 0; one < 12; one++)
            free(arrays[one]);
    }
    return 0;
}
