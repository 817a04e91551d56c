# Random operations on open files, each compared with the same bytes in memory, as fsx does it.
# fsx.py DIRECTORY SEED SECONDS [OPERATIONS]: for so long, or so many; what it did stands in its
# output when it fails.
import mmap, os, random, sys, time

base, seed, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
operations = int(sys.argv[4]) if len(sys.argv) > 4 else None
print("seed", seed, flush=True)
dice = random.Random(seed)
LARGEST = 400_000
log = []


class Tried:
    """A file, open through two descriptors, and what has to stand in it."""

    def __init__(self, number):
        self.number, self.generation, self.model = number, 0, bytearray()
        self.files = []
        self.reopen()

    @property
    def path(self):
        return f"{base}/fsx-{self.number}-{self.generation}"

    def reopen(self):
        for file in self.files:
            os.close(file)
        flags = os.O_RDWR | os.O_CREAT
        self.files = [os.open(self.path, flags), os.open(self.path, flags)]

    @property
    def file(self):
        return dice.choice(self.files)

    def span(self):
        start = dice.randrange(LARGEST)
        return start, dice.choice([1, 100, 4096, 5000, 70_000, dice.randrange(1, 120_000)])

    def lay(self, start, data):
        if len(self.model) < start:
            self.model.extend(bytes(start - len(self.model)))
        self.model[start:start + len(data)] = data

    def write(self):
        start, length = self.span()
        data = dice.randbytes(length)
        log.append(("write", self.number, start, length))
        assert os.pwrite(self.file, data, start) == length
        self.lay(start, data)

    def follow(self):
        start, data = dice.randrange(LARGEST), dice.randbytes(3000)
        log.append(("small writes", self.number, start))
        file = self.file
        for at in range(0, 3000, 100):
            os.pwrite(file, data[at:at + 100], start + at)
        self.lay(start, data)

    def append(self):
        if len(self.model) > LARGEST:
            return
        data = dice.randbytes(dice.randrange(1, 30_000))
        log.append(("append", self.number, len(data)))
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        os.write(file, data)
        os.close(file)
        self.lay(len(self.model), data)

    def read(self):
        start, length = self.span()
        log.append(("read", self.number, start, length))
        assert os.pread(self.file, length, start) == self.model[start:start + length]

    def cut(self):
        size = dice.randrange(LARGEST)
        log.append(("truncate", self.number, size))
        if dice.random() < 0.5:
            os.ftruncate(self.file, size)
        else:
            os.truncate(self.path, size)
        old = len(self.model)
        del self.model[size:]
        self.model.extend(bytes(max(0, size - old)))

    def extend(self):
        start, length = self.span()
        log.append(("fallocate", self.number, start, length))
        os.posix_fallocate(self.file, start, length)
        self.model.extend(bytes(max(0, start + length - len(self.model))))

    def map(self):
        if not self.model:
            return
        start = dice.randrange(len(self.model))
        end = min(len(self.model), start + dice.randrange(1, 50_000))
        log.append(("map", self.number, start, end))
        with mmap.mmap(self.file, len(self.model)) as mapped:
            assert mapped[start:end] == self.model[start:end]
            data = dice.randbytes(end - start)
            mapped[start:end] = data
            mapped.flush()
        self.lay(start, data)

    def rename(self):
        old = self.path
        self.generation += 1
        log.append(("rename", self.number, self.generation))
        if dice.random() < 0.3:
            with open(self.path, "wb") as other:
                other.write(b"in the way")
        os.rename(old, self.path)
        assert not os.path.exists(old)

    def sync(self):
        log.append(("fsync", self.number))
        os.fsync(self.file)

    def size(self):
        log.append(("size", self.number))
        assert os.fstat(self.file).st_size == len(self.model)
        assert os.stat(self.path).st_size == len(self.model)

    def again(self):
        log.append(("open again", self.number))
        self.reopen()
        with open(self.path, "rb") as whole:
            assert whole.read() == self.model


ACTS = [("write", 6), ("follow", 3), ("append", 2), ("read", 6), ("cut", 3), ("extend", 1),
        ("map", 2), ("rename", 1), ("sync", 1), ("size", 2), ("again", 1)]
names, weights = zip(*ACTS)
files = [Tried(number) for number in range(3)]
until = time.monotonic() + seconds


def is_over():
    if operations is not None:
        return len(log) >= operations
    return time.monotonic() >= until


try:
    while not is_over():
        getattr(dice.choice(files), dice.choices(names, weights)[0])()
    for file in files:
        file.again()
except BaseException:
    print("seed", seed, "after", len(log), "operations; the last:", *log[-40:], sep="\n")
    raise
print(len(log), "operations")
