"""Checks by its container whether a sound file is complete. libsndfile itself reads truncated files and skips damaged
Ogg pages without an error.
"""

import re
import zlib
from functools import lru_cache
from pathlib import Path

UNKNOWN_SIZE = 0x7FFF0000  # sizes from here on in a WAV header mean that it was written into a pipe
# In libsndfile's description of WAV, AIFF, AU, SVX, RF64 and W64: the size in the header, and the actual size.
SHORT = re.compile(r"^\s*(?:data|Data Size|SSND|BODY|Riff size|riff) *: (\d+) \(should be (\d+)\)", re.MULTILINE)
SAMPLES = re.compile(rb"^sample_count -i (\d+)", re.MULTILINE)  # in the header of NIST's SPHERE
REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
END_OF_STREAM = 4  # a flag of a page


def lost(path: Path, file) -> str | None:
    """Describe what an open `soundfile.SoundFile` lacks compared with its header. None: nothing."""
    match = SHORT.search(file.extra_info)
    if match and int(match[2]) < int(match[1]) < UNKNOWN_SIZE:
        return f"truncated: {match[2]} bytes of samples, its header says {match[1]}"
    if "Seems to be a truncated file" in file.extra_info:  # of VOC
        return "truncated: fewer samples than its header says"
    if file.format == "NIST":
        with path.open("rb") as header:
            samples = SAMPLES.search(header.read(1024))
        if samples and file.frames < int(samples[1]):
            return f"truncated: {file.frames} samples, its header says {int(samples[1])}"
    return None


def ogg_damage(path: Path) -> str | None:
    """Describe what is wrong with an Ogg file (Vorbis, Opus, FLAC): a page is cut off, missing or damaged (RFC 3533),
    or a stream has no end. None: nothing is wrong, or the file is not Ogg."""
    with path.open("rb") as file:
        if file.read(4) != b"OggS":
            return None
    facts = path.stat()
    return _ogg_damage(path, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=16)  # a recording may have many segments
def _ogg_damage(path: Path, size: int, time: int) -> str | None:
    pages: dict[bytes, int] = {}  # stream -> number of its next page
    open_streams: set[bytes] = set()
    with path.open("rb") as file:
        while head := file.read(27):
            start = file.tell() - len(head)
            if head[:4] != b"OggS":
                if not open_streams:
                    return None  # data after the end of all streams are not sound
                return f"damaged: no page of Ogg at byte {start}"
            lengths = file.read(head[-1]) if len(head) == 27 else b""
            body = file.read(sum(lengths))
            if len(head) < 27 or len(lengths) < head[26] or len(body) < sum(lengths):
                return f"truncated: it ends inside of a page of Ogg, at byte {size}"
            if _checksum(head[:22] + bytes(4) + head[26:] + lengths + body) != int.from_bytes(head[22:26], "little"):
                return f"damaged: the page of Ogg at byte {start} has another checksum"
            stream, number = head[14:18], int.from_bytes(head[18:22], "little")
            if number != pages.get(stream, number):
                return f"damaged: a page of Ogg is missing before byte {start}"
            pages[stream] = number + 1
            (open_streams.discard if head[5] & END_OF_STREAM else open_streams.add)(stream)
    return "truncated: its stream of Ogg has no end" if open_streams else None


def _checksum(page: bytes) -> int:
    """CRC-32 as in Ogg: zlib's without its inversions, and with the bits of all bytes and of the result reversed."""
    value = zlib.crc32(page.translate(REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(value.to_bytes(4, "little").translate(REVERSED), "big")
