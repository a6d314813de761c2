"""Guest memory as the VMM sees it before the realm starts: sparse, with the bytes really in it."""

from collections.abc import Iterator

from kbs_rim.realm.rim_model import PAGE

_ZERO_PAGE = bytes(PAGE)


class GuestMemory:
    """Pages by number. Whole pages of an image are kept as views of the image, so that 100 MiB cost no copy."""

    def __init__(self) -> None:
        self._pages: dict[int, bytes | memoryview] = {}

    def write(self, address: int, data: bytes | memoryview) -> None:
        """Write ``data`` at ``address``; later writes win, byte for byte."""
        view = memoryview(data)
        done = 0
        while done < len(view):
            number, offset = divmod(address + done, PAGE)
            chunk = view[done : done + PAGE - offset]
            if len(chunk) == PAGE:
                self._pages[number] = chunk
            else:
                page = bytearray(self.page(number))
                page[offset : offset + len(chunk)] = chunk
                self._pages[number] = bytes(page)
            done += len(chunk)

    def page(self, number: int) -> bytes | memoryview:
        """Return the 4096 bytes of page ``number``; memory nobody wrote is zero."""
        return self._pages.get(number, _ZERO_PAGE)

    def pages(self, base: int, top: int) -> Iterator[tuple[int, bytes | memoryview]]:
        """Yield (address, 4096 bytes) for each page of [base, top), both page aligned."""
        for number in range(base // PAGE, top // PAGE):
            yield number * PAGE, self.page(number)

    def read(self, address: int, size: int) -> bytes:
        """Return ``size`` bytes at ``address``."""
        first, last = address // PAGE, -(-(address + size) // PAGE)
        whole = b"".join(self.page(number) for number in range(first, last))
        return whole[address - first * PAGE :][:size]
