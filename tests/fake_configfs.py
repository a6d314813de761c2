"""configfs-tsm for tests: real files, and the kernel's side done in Python."""

import shutil

from kbs_rim.realm.tsm import PROVIDER, ConfigfsTree


class Kernel(ConfigfsTree):
    """A directory that behaves like configfs-tsm: the file operations are the real ones, the kernel's side is done here."""

    def __init__(self, root, provider=PROVIDER):
        super().__init__(root)
        self.provider = provider
        self.writes = []
        self.errors = []
        self.ignore_writes = False
        self.other_writer = False
        self.report = lambda challenge: b"token for " + challenge

    def create(self, name):
        super().create(name)
        entry = self.root / name
        for attribute, content in (("provider", self.provider + "\n"), ("generation", "0\n"), ("inblob", ""), ("outblob", "")):
            (entry / attribute).write_text(content)

    def remove(self, name):
        shutil.rmtree(self.root / name)

    def write(self, name, attribute, data):
        super().write(name, attribute, data)
        self.writes.append((attribute, data))
        if not self.ignore_writes:
            self._bump(name)
            (self.root / name / "outblob").write_bytes(self.report(data))

    def read(self, name, attribute, limit):
        if attribute == "outblob" and self.errors:
            raise OSError(self.errors.pop(0), "from the driver")
        data = super().read(name, attribute, limit)
        if attribute == "outblob" and self.other_writer:
            self._bump(name)
        return data

    def _bump(self, name):
        counter = self.root / name / "generation"
        counter.write_text(f"{int(counter.read_text()) + 1}\n")
