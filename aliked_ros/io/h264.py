# Copyright 2026 aliked_ros maintainers
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""Lost pictures of an H.264 stream, from the frame numbers in its headers (ITU-T H.264, 7.3).

FFmpeg replaces a lost reference picture by an older one and reports nothing; all pictures up to
the next key frame are wrong then. (H.265's decoder leaves such pictures out.)
"""

from __future__ import annotations

from collections.abc import Iterable

_SLICE, _KEY_SLICE, _SEQUENCE = 1, 5, 7  # types of NAL units
_HEADER = 400  # bytes that hold all that is read here
_WITH_CHROMA = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)  # profiles


class FrameNumbers:
    """Notices a gap in the numbers of reference pictures."""

    def __init__(self) -> None:
        self._bits = 0  # of a frame number; 0 = numbers cannot be checked
        self._planes = False  # the colour planes are coded separately
        self._last: int | None = None

    def restart(self) -> None:
        """Take the next picture as the first."""
        self._last = None

    def gap(self, units: Iterable[bytes]) -> bool:
        """Whether pictures are missing before that of a packet, given its NAL units in order."""
        for unit in units:
            kind = unit[0] & 31
            try:
                if kind == _SEQUENCE:
                    self._bits, self._planes = _sequence(_Bits(unit))
                elif kind in (_SLICE, _KEY_SLICE):
                    return self._bits > 0 and self._is_gap(unit)
            except IndexError:  # truncated: the decoder will tell
                return False
        return False

    def _is_gap(self, unit: bytes) -> bool:
        bits = _Bits(unit)
        for _ in range(3):  # first macroblock, type of slice, picture parameters
            bits.unsigned()
        if self._planes:
            bits.take(2)
        number, last = bits.take(self._bits), self._last
        if unit[0] & 0x60:  # a reference picture
            self._last = number
        if last is None or unit[0] & 31 == _KEY_SLICE:
            return False
        # The second field of a picture has the number of the first.
        return number not in (last, (last + 1) % (1 << self._bits))


class _Bits:
    """Reads the bits of a NAL unit after its first byte; IndexError at the end."""

    def __init__(self, unit: bytes) -> None:
        # b"\0\0\3" escapes what would look like a start code
        payload = unit[1:_HEADER].replace(b"\0\0\3", b"\0\0")
        self._digits = "".join(f"{byte:08b}" for byte in payload)
        self._at = 0

    def take(self, count: int) -> int:
        """A number of so many bits."""
        self._at += count
        if self._at > len(self._digits):
            raise IndexError
        return int(self._digits[self._at - count : self._at], 2)

    def unsigned(self) -> int:
        """A number in Exp-Golomb code."""
        zeros = 0
        while not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + (self.take(zeros) if zeros else 0)

    def signed(self) -> int:
        """A number in signed Exp-Golomb code."""
        code = self.unsigned()
        return (code + 1) // 2 if code % 2 else -(code // 2)


def _sequence(bits: _Bits) -> tuple[int, bool]:
    """Bits of a frame number (0 = gaps are allowed), and whether colour planes are separate."""
    profile = bits.take(8)
    bits.take(16)  # constraints, level
    bits.unsigned()
    planes = False
    if profile in _WITH_CHROMA:
        chroma = bits.unsigned()
        planes = chroma == 3 and bool(bits.take(1))
        bits.unsigned(), bits.unsigned(), bits.take(1)  # bit depths, lossless
        if bits.take(1):
            for index in range(12 if chroma == 3 else 8):
                if bits.take(1):
                    _skip_scaling(bits, 16 if index < 6 else 64)
    size = bits.unsigned() + 4
    order = bits.unsigned()
    if order == 0:
        bits.unsigned()
    elif order == 1:
        bits.take(1), bits.signed(), bits.signed()
        for _ in range(bits.unsigned()):
            bits.signed()
    bits.unsigned()  # reference pictures
    return 0 if bits.take(1) else size, planes


def _skip_scaling(bits: _Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.signed()) % 256
        last = following or last
