/* Reads the records in a piece of an event file: framing, checksums, events and simple values.
 *
 * `compiled_scan.py` loads this library with ctypes, so that it needs no header of Python, works with
 * every version of it, and runs without the GIL. setup.py builds it where there is a C compiler.
 * `portable_scan.py` does the same with google_crc32c and protobuf, and a test compares the two.
 *
 * A record is a TFRecord: an event and its framing, as `tbtrainer/event_file/records.py` writes it.
 *
 * The bytes may come from another program. No length is trusted before it was compared with the
 * bytes that are left, nothing is allocated, and every index stays below a capacity that the caller
 * gives. A record in a form that writers do not use, such as a field that occurs twice, is left to
 * protobuf.
 */

#include <stdint.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "Numbers in event files are little-endian; portable_scan.py reads them on this processor."
#endif

/* `compiled_scan.py` loads the library only if it has this number. Increase it with each change of
 * the functions' arguments, because an editable installation may keep an old library. */
const int32_t tbtrainer_scan_interface = 1;

/* Length, its checksum, and the checksum of the payload. */
#define HEADER 12
#define FRAME 16
/* protobuf reads no longer message. */
#define LONGEST_MESSAGE 0x7fffffff
/* The field that holds a value; see wire.py. */
#define METADATA_ONLY 0
#define SIMPLE_VALUE 2
#define TENSOR 8
#define NUMBER 18
#define START 100
/* A tensor of which protobuf has to find out whether it is one number. */
#define MAYBE_NUMBER 200
#define MOST_NUMBER_BYTES 64
/* Data types of tensors. */
#define DT_FLOAT 1
#define DT_DOUBLE 2
#define DT_STRING 7
/* If a tag is not found after so many slots, the batch ends: then no choice of tags is slow. */
#define MOST_PROBES 64

/* What a call returns. */
enum { NEEDS_BYTES = 0, DAMAGED = 1, FULL = 2, UNUSUAL = 3 };

typedef struct {
    const uint8_t *at, *end;
} Bytes;

/* The arrays of `Batch`, with room for `capacity` rows and as many tags. */
typedef struct {
    uint8_t *field;
    int32_t *tag;
    int64_t *step;
    double *wall_time, *value;
    int64_t *offset, *size;
    int64_t *name_begin, *name_size, *metadata_begin, *metadata_size;
    /* Numbers of tags plus one, by hash; `slots` is a power of two above `capacity`. */
    int32_t *slot;
    int64_t capacity, slots;
    uint64_t seed;
} Table;

typedef struct {
    int64_t rows, tags, events;
    /* Where the first record begins that was not read whole, and its size as far as is known. */
    int64_t end, needed;
    /* If that record was begun: where its next value is, from the beginning of the record. */
    int64_t resume;
    double first_wall_time;
} Found;

typedef struct {
    double wall_time;
    int64_t step;
    Bytes summary;
    int is_start;
} Event;

typedef struct {
    Bytes tag, metadata, content;
    int field;
    float simple_value;
} Value;

/* ---- Checksums ---- */

static uint32_t crc_table[8][256];

__attribute__((constructor)) static void make_crc_table(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ (crc & 1 ? 0x82f63b78u : 0);
        crc_table[0][byte] = crc;
    }
    for (int row = 1; row < 8; row++)
        for (int byte = 0; byte < 256; byte++) {
            uint32_t crc = crc_table[row - 1][byte];
            crc_table[row][byte] = (crc >> 8) ^ crc_table[0][crc & 255];
        }
}

/* Eight tables, so that eight bytes are read at a time: M. Kounavis and F. Berry, "A Systematic
 * Approach to Building High Performance Software-Based CRC Generators", 2005. */
static uint32_t portable_crc32c(const uint8_t *data, int64_t size)
{
    uint32_t crc = ~0u;
    for (; size >= 8; data += 8, size -= 8) {
        uint64_t word;
        memcpy(&word, data, 8);
        word ^= crc;
        crc = 0;
        for (int byte = 0; byte < 8; byte++)
            crc ^= crc_table[7 - byte][(word >> (8 * byte)) & 255];
    }
    for (; size > 0; data++, size--)
        crc = (crc >> 8) ^ crc_table[0][(crc ^ *data) & 255];
    return ~crc;
}

#if defined(__x86_64__)
#include <nmmintrin.h>
__attribute__((target("sse4.2"))) static uint32_t fast_crc32c(const uint8_t *data, int64_t size)
{
    uint64_t crc = ~0u;
    for (; size >= 8; data += 8, size -= 8) {
        uint64_t word;
        memcpy(&word, data, 8);
        crc = _mm_crc32_u64(crc, word);
    }
    for (; size > 0; data++, size--)
        crc = _mm_crc32_u8((uint32_t)crc, *data);
    return ~(uint32_t)crc;
}
static int has_fast_crc32c(void) { return __builtin_cpu_supports("sse4.2"); }
#elif defined(__aarch64__) && defined(__ARM_FEATURE_CRC32)
#include <arm_acle.h>
static uint32_t fast_crc32c(const uint8_t *data, int64_t size)
{
    uint32_t crc = ~0u;
    for (; size >= 8; data += 8, size -= 8) {
        uint64_t word;
        memcpy(&word, data, 8);
        crc = __crc32cd(crc, word);
    }
    for (; size > 0; data++, size--)
        crc = __crc32cb(crc, *data);
    return ~crc;
}
static int has_fast_crc32c(void) { return 1; }
#else
#define fast_crc32c portable_crc32c
static int has_fast_crc32c(void) { return 0; }
#endif

/* For tests: the checksum by the instruction of the processor, or by the tables. */
uint32_t tbtrainer_crc32c(const uint8_t *data, int64_t size, int32_t portable)
{
    return portable || !has_fast_crc32c() ? portable_crc32c(data, size) : fast_crc32c(data, size);
}

static int is_intact(const uint8_t *data, int64_t size, const uint8_t *stored, int fast)
{
    uint32_t expected, crc = fast ? fast_crc32c(data, size) : portable_crc32c(data, size);
    memcpy(&expected, stored, 4);
    return ((crc >> 15 | crc << 17) + 0xa282ead8u) == expected;
}

/* ---- Fields of protobuf ---- */

static int read_varint(Bytes *bytes, uint64_t *number)
{
    uint64_t read = 0;
    for (int shift = 0; shift < 70 && bytes->at < bytes->end; shift += 7) {
        uint8_t byte = *bytes->at++;
        if (shift == 63 && byte > 1)
            return 0;
        read |= (uint64_t)(byte & 127) << shift;
        if (byte < 128) {
            *number = read;
            return 1;
        }
    }
    return 0;
}

static int read_part(Bytes *bytes, Bytes *part)
{
    uint64_t size;
    if (!read_varint(bytes, &size) || size > (uint64_t)(bytes->end - bytes->at))
        return 0;
    part->at = bytes->at;
    part->end = bytes->at += size;
    return 1;
}

static int read_fixed(Bytes *bytes, void *number, int size)
{
    if (bytes->end - bytes->at < size)
        return 0;
    memcpy(number, bytes->at, size);
    bytes->at += size;
    return 1;
}

/* The key of a field on the wire: its number and its wire type in one byte. */
#define KEY(number, type) ((number) << 3 | (type))
enum { VARINT = 0, FIXED64 = 1, PART = 2, FIXED32 = 5 };

static int read_session_log(Bytes log, int *is_start)
{
    uint64_t status = 0;
    Bytes text;
    while (log.at < log.end)
        switch (*log.at++) {
        case KEY(1, VARINT):
            if (!read_varint(&log, &status))
                return 0;
            break;
        case KEY(2, PART):
        case KEY(3, PART):
            if (!read_part(&log, &text))
                return 0;
            break;
        default:
            return 0;
        }
    *is_start = status == 1;
    return 1;
}

/* Returns 0 for an event in a form that is left to protobuf; so do the functions below. */
static int read_event(Bytes bytes, Event *event)
{
    int contents = 0;
    memset(event, 0, sizeof *event);
    while (bytes.at < bytes.end) {
        uint8_t key = *bytes.at++;
        uint64_t step;
        Bytes part;
        switch (key) {
        case KEY(1, FIXED64):
            if (!read_fixed(&bytes, &event->wall_time, 8))
                return 0;
            break;
        case KEY(2, VARINT):
            if (!read_varint(&bytes, &step))
                return 0;
            event->step = (int64_t)step;
            break;
        case KEY(3, PART):
        case KEY(4, PART):
        case KEY(5, PART):
        case KEY(6, PART):
        case KEY(7, PART):
        case KEY(8, PART):
        case KEY(9, PART):
        case KEY(10, PART):
            if (contents++ || !read_part(&bytes, &part))
                return 0;
            if (key == KEY(5, PART))
                event->summary = part;
            if (key == KEY(7, PART) && !read_session_log(part, &event->is_start))
                return 0;
            break;
        default:
            return 0;
        }
    }
    return 1;
}

static int read_value(Bytes bytes, Value *value)
{
    int contents = 0;
    memset(value, 0, sizeof *value);
    while (bytes.at < bytes.end) {
        uint8_t key = *bytes.at++;
        switch (key) {
        case KEY(1, PART):
            if (value->tag.at || !read_part(&bytes, &value->tag))
                return 0;
            break;
        case KEY(9, PART):
            if (value->metadata.at || !read_part(&bytes, &value->metadata))
                return 0;
            break;
        case KEY(2, FIXED32):
            if (contents++ || !read_fixed(&bytes, &value->simple_value, 4))
                return 0;
            value->field = SIMPLE_VALUE;
            break;
        case KEY(3, PART):
        case KEY(4, PART):
        case KEY(5, PART):
        case KEY(6, PART):
        case KEY(8, PART):
            if (contents++ || !read_part(&bytes, &value->content))
                return 0;
            value->field = key >> 3;
            break;
        default:
            return 0;
        }
    }
    return 1;
}

static int next_value(Bytes *summary, Bytes *serialized, Value *value)
{
    return *summary->at++ == KEY(1, PART) && read_part(summary, serialized) &&
           read_value(*serialized, value);
}

static int has_usual_values(Bytes summary)
{
    Bytes serialized;
    Value value;
    while (summary.at < summary.end)
        if (!next_value(&summary, &serialized, &value))
            return 0;
    return 1;
}

/* Reads a list that has at most one number, packed or not. */
static int read_listed(Bytes *tensor, int is_packed, int size, void *number, int *count)
{
    Bytes list = *tensor;
    if (is_packed && !read_part(tensor, &list))
        return 0;
    if (is_packed && list.at == list.end)
        return 1;
    if ((is_packed && list.end - list.at != size) || !read_fixed(&list, number, size))
        return 0;
    if (!is_packed)
        tensor->at = list.at;
    (*count)++;
    return 1;
}

/* Reads a tensor of one float or double. */
static int field_of_tensor(Bytes tensor, double *number)
{
    uint64_t dtype = 0, version;
    Bytes part, content = {0, 0};
    float single = 0;
    int singles = 0, doubles = 0, has_shape = 0;
    if (tensor.end - tensor.at > MOST_NUMBER_BYTES)
        return TENSOR;
    while (tensor.at < tensor.end) {
        uint8_t key = *tensor.at++;
        int known = 0;
        switch (key) {
        case KEY(1, VARINT):
            known = read_varint(&tensor, &dtype);
            break;
        case KEY(2, PART):
            known = read_part(&tensor, &part);
            has_shape |= known && part.at < part.end;
            break;
        case KEY(3, VARINT):
            known = read_varint(&tensor, &version);
            break;
        case KEY(4, PART):
            known = read_part(&tensor, &content);
            break;
        case KEY(5, PART):
        case KEY(5, FIXED32):
            known = read_listed(&tensor, (key & 7) == PART, 4, &single, &singles);
            break;
        case KEY(6, PART):
        case KEY(6, FIXED64):
            known = read_listed(&tensor, (key & 7) == PART, 8, number, &doubles);
            break;
        }
        if (!known)
            return MAYBE_NUMBER;
    }
    int64_t bytes = content.end - content.at;
    if (dtype == DT_STRING)
        return TENSOR;
    if (has_shape || (dtype != DT_FLOAT && dtype != DT_DOUBLE))
        return MAYBE_NUMBER;
    if (bytes == (dtype == DT_FLOAT ? 4 : 8))
        memcpy(dtype == DT_FLOAT ? (void *)&single : (void *)number, content.at, (size_t)bytes);
    else if (bytes || (dtype == DT_FLOAT ? singles : doubles) != 1)
        return MAYBE_NUMBER;
    if (dtype == DT_FLOAT)
        *number = single;
    return NUMBER;
}

/* ---- Rows and tags ---- */

static uint64_t hash_of(Bytes name, uint64_t seed)
{
    int64_t size = name.end - name.at;
    uint64_t hash = seed ^ (uint64_t)size;
    while (size > 0) {
        uint64_t word = 0;
        memcpy(&word, name.at, size < 8 ? (size_t)size : 8);
        hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
        hash ^= hash >> 29;
        name.at += 8;
        size -= 8;
    }
    hash *= 0xbf58476d1ce4e5b9u;
    return hash ^ hash >> 32;
}

/* Returns the number of a tag; -1 if there is no room for a new one. */
static int32_t number_of_tag(Bytes name, const uint8_t *data, Table *table, Found *found)
{
    int64_t size = name.end - name.at;
    uint64_t place = hash_of(name, table->seed);
    for (int probe = 0; probe < MOST_PROBES; probe++, place++) {
        int32_t *slot = &table->slot[place & (uint64_t)(table->slots - 1)];
        if (*slot == 0) {
            if (found->tags == table->capacity)
                return -1;
            table->name_begin[found->tags] = size ? name.at - data : 0;
            table->name_size[found->tags] = size;
            table->metadata_begin[found->tags] = table->metadata_size[found->tags] = 0;
            *slot = (int32_t)++found->tags;
            return *slot - 1;
        }
        int32_t number = *slot - 1;
        if (table->name_size[number] == size &&
            (size == 0 || !memcmp(data + table->name_begin[number], name.at, (size_t)size)))
            return number;
    }
    return -1;
}

/* Adds a row; returns 0 if there is no room. */
static int add_row(int field, int32_t tag, const Event *event, double value, Bytes serialized,
                   const uint8_t *data, Table *table, Found *found)
{
    int64_t row = found->rows;
    if (row == table->capacity)
        return 0;
    table->field[row] = (uint8_t)field;
    table->tag[row] = tag;
    table->step[row] = event->step;
    table->wall_time[row] = event->wall_time;
    table->value[row] = value;
    table->offset[row] = serialized.at - data;
    table->size[row] = serialized.end - serialized.at;
    found->rows++;
    return 1;
}

static int add_value(const Value *value, const Event *event, Bytes serialized, const uint8_t *data,
                     Table *table, Found *found)
{
    double number = value->simple_value;
    int has_metadata = value->metadata.at < value->metadata.end;
    if (value->field == METADATA_ONLY && !has_metadata)
        return 1;
    if (found->rows == table->capacity)
        return 0;
    int32_t tag = number_of_tag(value->tag, data, table, found);
    if (tag < 0)
        return 0;
    int field = value->field;
    if (field == TENSOR)
        field = field_of_tensor(value->content, &number);
    if (field != NUMBER && field != SIMPLE_VALUE)
        number = 0;
    if (has_metadata && table->metadata_size[tag] == 0) {
        table->metadata_begin[tag] = value->metadata.at - data;
        table->metadata_size[tag] = value->metadata.end - value->metadata.at;
    }
    return add_row(field, tag, event, number, serialized, data, table, found);
}

/* Adds the values of an event from `resume` on; returns 0 if there is no room for all. */
static int add_event(const Event *event, Bytes payload, const uint8_t *record, const uint8_t *data,
                     Table *table, Found *found)
{
    Bytes rest = event->summary, serialized;
    Value value;
    if (event->is_start) {
        Bytes nothing = {payload.at, payload.at};
        return add_row(START, -1, event, 0, nothing, data, table, found);
    }
    if (found->resume)
        rest.at = record + found->resume;
    while (rest.at < rest.end) {
        const uint8_t *begin = rest.at;
        next_value(&rest, &serialized, &value);
        if (!add_value(&value, event, serialized, data, table, found)) {
            found->resume = begin - record;
            return 0;
        }
    }
    found->resume = 0;
    return 1;
}

/* Reads the whole records in a piece of a file.
 *
 * data, size: The piece.
 * table: Where the rows go. Its slots are zero.
 * found: `end` and `resume` say where to begin; the other fields are set.
 *
 * Returns why it stopped. NEEDS_BYTES: a record is not whole; `needed` is its size, or that of the
 * header. DAMAGED: a checksum is wrong. FULL: there is no room for more rows; continue with the same
 * `end` and `resume`. UNUSUAL: the record at `end`, of `needed` bytes, is left to protobuf.
 */
int32_t tbtrainer_scan(const uint8_t *data, int64_t size, Table *table, Found *found)
{
    int fast = has_fast_crc32c();
    found->rows = found->tags = found->events = 0;
    for (;;) {
        const uint8_t *record = data + found->end;
        int64_t left = size - found->end;
        uint64_t length;
        Event event;
        found->needed = HEADER;
        if (left < HEADER)
            return NEEDS_BYTES;
        if (!is_intact(record, 8, record + 8, fast))
            return DAMAGED;
        memcpy(&length, record, 8);
        if (length > INT64_MAX - FRAME) {
            found->needed = INT64_MAX;
            return NEEDS_BYTES;
        }
        found->needed = (int64_t)length + FRAME;
        if (found->needed > left)
            return NEEDS_BYTES;
        Bytes payload = {record + HEADER, record + HEADER + length};
        if (!found->resume && !is_intact(payload.at, (int64_t)length, payload.end, fast))
            return DAMAGED;
        if (length > LONGEST_MESSAGE || !read_event(payload, &event) ||
            (!found->resume && !has_usual_values(event.summary)))
            return UNUSUAL;
        if (!found->events && !found->rows)
            found->first_wall_time = event.wall_time;
        if (!add_event(&event, payload, record, data, table, found))
            return FULL;
        found->events++;
        found->end += found->needed;
    }
}
