"""A file system in memory, served to the kernel through /dev/fuse, in a process of its own.

    python -I fuse_server.py DIRECTORY

It mounts itself on the directory, prints "mounted", and serves until it is killed; that ends the
mount's calls with an error. While the process is stopped every call on the mount hangs. It is
stopped by SIGUSR1, which it obeys between two requests: a process whose request has been read but
not answered cannot be killed. SIGCONT lets it continue.
The kernel may cache nothing, so that every call reaches this process. The structures are those of
`linux/fuse.h`, protocol 7.31.
"""

import ctypes
import errno
import os
import select
import signal
import stat
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

LOOKUP, FORGET, GETATTR, SETATTR, MKDIR, UNLINK, RMDIR, RENAME = 1, 2, 3, 4, 9, 10, 11, 12
OPEN, READ, WRITE, STATFS, RELEASE, FSYNC, INIT = 14, 15, 16, 17, 18, 20, 26
OPENDIR, READDIR, RELEASEDIR, FSYNCDIR, CREATE, INTERRUPT = 27, 28, 29, 30, 35, 36
DESTROY, BATCH_FORGET, RENAME2 = 38, 42, 45
WITHOUT_REPLY = (FORGET, BATCH_FORGET, INTERRUPT)

IN_HEADER, OUT_HEADER = struct.Struct("<IIQQIIIHH"), struct.Struct("<IiQ")
ATTRIBUTES = struct.Struct("<6Q10I")
SET_MODE, SET_SIZE = 1, 8
DIRECT_IO, BIG_WRITES = 1, 32
MAX_WRITE = 2**17
ROOT = 1


@dataclass
class Node:
    """A file with its content, or a directory with the numbers of its entries."""

    mode: int
    content: bytearray = field(default_factory=bytearray)
    entries: dict[bytes, int] = field(default_factory=dict)


class MemoryFileSystem:
    """Answers requests of the kernel. A method raises an `OSError` where a call is to fail."""

    def __init__(self) -> None:
        self.nodes = {ROOT: Node(stat.S_IFDIR | 0o755)}
        self.newest = ROOT
        self.answers: dict[int, Callable[[int, bytes], bytes]] = {
            LOOKUP: lambda parent, name: self.entry(self.found(parent, name.rstrip(b"\0"))),
            GETATTR: lambda node, _: self.attributes_out(node),
            SETATTR: self.set_attributes,
            MKDIR: lambda parent, given: self.entry(
                self.make(parent, given[8:], stat.S_IFDIR | _first(given))
            ),
            UNLINK: self.remove,
            RMDIR: self.remove,
            RENAME: lambda parent, given: self.rename(parent, given, 8),
            RENAME2: lambda parent, given: self.rename(parent, given, 16),
            OPEN: lambda node, _: struct.pack("<QII", node, DIRECT_IO, 0),
            CREATE: self.create,
            READ: self.read,
            WRITE: self.write,
            STATFS: lambda *_: struct.pack("<5Q4I24x", *[2**20] * 5, 4096, 255, 4096, 0),
            OPENDIR: lambda node, _: struct.pack("<QII", node, 0, 0),
            READDIR: self.read_directory,
            INIT: lambda *_: struct.pack(
                "<4I2H2I2HI28x", 7, 31, 0, BIG_WRITES, 12, 9, MAX_WRITE, 1, 32, 0, 0
            ),
        }
        for opcode in (RELEASE, RELEASEDIR, FSYNC, FSYNCDIR, DESTROY):
            self.answers[opcode] = lambda *_: b""

    def found(self, parent: int, name: bytes) -> int:
        if name not in self.nodes[parent].entries:
            raise OSError(errno.ENOENT, "")
        return self.nodes[parent].entries[name]

    def make(self, parent: int, name: bytes, mode: int) -> int:
        name = name.rstrip(b"\0")
        if name in self.nodes[parent].entries:
            raise OSError(errno.EEXIST, "")
        self.newest += 1
        self.nodes[self.newest] = Node(mode)
        self.nodes[parent].entries[name] = self.newest
        return self.newest

    def create(self, parent: int, given: bytes) -> bytes:
        mode, name = struct.unpack_from("<I", given, 4)[0], given[16:]
        made = self.make(parent, name, stat.S_IFREG | stat.S_IMODE(mode))
        return self.entry(made) + struct.pack("<QII", made, DIRECT_IO, 0)

    def remove(self, parent: int, name: bytes) -> bytes:
        self.found(parent, name.rstrip(b"\0"))
        # The node stays: a descriptor may still be open.
        del self.nodes[parent].entries[name.rstrip(b"\0")]
        return b""

    def rename(self, parent: int, given: bytes, header_bytes: int) -> bytes:
        target = struct.unpack_from("<Q", given)[0]
        old, new, _ = given[header_bytes:].split(b"\0", 2)
        self.nodes[target].entries[new] = self.found(parent, old)
        if (target, new) != (parent, old):
            del self.nodes[parent].entries[old]
        return b""

    def read(self, node: int, given: bytes) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", given)
        return bytes(self.nodes[node].content[offset : offset + size])

    def write(self, node: int, given: bytes) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", given)
        content = self.nodes[node].content
        content.extend(bytes(max(0, offset - len(content))))
        content[offset : offset + size] = given[40 : 40 + size]
        return struct.pack("<II", size, 0)

    def read_directory(self, node: int, given: bytes) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", given)
        listed = b""
        entries = list(self.nodes[node].entries.items())
        for place, (name, child) in enumerate(entries[offset:], offset + 1):
            kind = self.nodes[child].mode >> 12
            entry = struct.pack("<QQII", child, place, len(name), kind) + name
            entry += bytes(-len(entry) % 8)
            if len(listed) + len(entry) > size:
                break
            listed += entry
        return listed

    def set_attributes(self, node: int, given: bytes) -> bytes:
        valid, _, _, size = struct.unpack_from("<IIQQ", given)
        if valid & SET_SIZE:
            content = self.nodes[node].content
            del content[size:]
            content.extend(bytes(size - len(content)))
        if valid & SET_MODE:
            mode = struct.unpack_from("<I", given, 68)[0]
            kind = stat.S_IFMT(self.nodes[node].mode)
            self.nodes[node].mode = kind | stat.S_IMODE(mode)
        return self.attributes_out(node)

    def attributes(self, node: int) -> bytes:
        size, mode = len(self.nodes[node].content), self.nodes[node].mode
        return ATTRIBUTES.pack(node, size, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)

    def attributes_out(self, node: int) -> bytes:
        return struct.pack("<QII", 0, 0, 0) + self.attributes(node)

    def entry(self, node: int) -> bytes:
        return struct.pack("<4Q2I", node, 0, 0, 0, 0, 0) + self.attributes(node)


def _first(given: bytes) -> int:
    return int(struct.unpack_from("<I", given)[0])


def mount(directory: str) -> int:
    """Mounts a FUSE file system, and returns the descriptor on which its requests come."""
    device = os.open("/dev/fuse", os.O_RDWR | os.O_NONBLOCK)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"memory", os.fsencode(directory), b"fuse", 0, options) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return device


def stop_when_asked() -> int:
    """Has SIGUSR1 written to a pipe, and returns the end from which it is read."""
    asked, asks = os.pipe()
    os.set_blocking(asks, False)
    signal.set_wakeup_fd(asks)
    signal.signal(signal.SIGUSR1, lambda *_: None)
    return asked


def serve(device: int, asked: int) -> None:
    """Answers requests until the file system is unmounted."""
    files = MemoryFileSystem()
    while True:
        if asked in select.select([device, asked], [], [])[0]:
            os.read(asked, 1)
            os.kill(os.getpid(), signal.SIGSTOP)
        try:
            request = os.read(device, MAX_WRITE + 4096)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return
            if error.errno in (errno.ENOENT, errno.EINTR, errno.EAGAIN):
                continue
            raise
        _, opcode, unique, node, *_ = IN_HEADER.unpack_from(request)
        if opcode in WITHOUT_REPLY:
            continue
        code, answer = 0, b""
        try:
            # Not implemented are, above all, FLUSH, so that no `close` waits, and attributes.
            if opcode not in files.answers:
                raise OSError(errno.ENOSYS, "")
            answer = files.answers[opcode](node, request[IN_HEADER.size :])
        except OSError as error:
            code = error.errno or errno.EIO
        try:
            os.write(device, OUT_HEADER.pack(OUT_HEADER.size + len(answer), -code, unique) + answer)
        except OSError as error:
            if error.errno != errno.ENOENT:  # The caller was killed meanwhile.
                raise


def end_with_parent() -> None:
    """Has the kernel kill this process when the one that started it ends."""
    ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))


if __name__ == "__main__":
    end_with_parent()
    stops = stop_when_asked()
    opened = mount(sys.argv[1])
    print("mounted", flush=True)
    serve(opened, stops)
