"""Data sets: published layouts, checksums, downloads, splits and fingerprints, on tiny files written here."""

from __future__ import annotations

import hashlib
import io
import pickle
import pkgutil
import tarfile
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet.config import DataConfig
from alexnet.data import cifar, sources
from alexnet.data.cifar import CIFAR10, CIFAR100, CifarFiles
from alexnet.data.sources import Source, load_dataset
from alexnet.data.splits import Published, Split, stratify
from alexnet.errors import DataError, UsageError

NOWHERE = "http://127.0.0.1:1"


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


class FakeCifar:
    """A CIFAR set of a few images in the published layout; `files` are its bytes by name."""

    def __init__(self, kind: CifarFiles, per_file: int = 40, bad_label: int | None = None) -> None:
        rng = np.random.default_rng(0)
        count = 100 if "fine" in kind.labels_key else 10
        names = [f"class{i}" for i in range(count)]
        self.files: dict[str, bytes] = {}
        for file in (*kind.train, *kind.test):
            labels = [int(label) for label in rng.permutation(per_file) % count]
            if bad_label is not None and file in kind.test:
                labels[3] = bad_label
            pixels = rng.integers(0, 256, (per_file, 3072), dtype=np.uint8)
            entry = {"data": pixels, kind.labels_key: labels, "batch_label": file, "filenames": ["x.png"] * per_file}
            self.files[file] = pickle.dumps(entry, protocol=2)
        (meta,) = kind.meta
        self.files[meta] = pickle.dumps({kind.names_key: names, "num_vis": 3072}, protocol=2)
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w:gz") as tar:
            for name, content in self.files.items():
                member = tarfile.TarInfo(f"{kind.folder}/{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        self.archive = stream.getvalue()
        self.kind = self.described(kind)

    def described(self, kind: CifarFiles, url: str = NOWHERE) -> CifarFiles:
        """`kind` with the checksums of these files and an address that refuses."""
        file = kind.archive[0].rpartition("/")[2]
        sums = [{name: md5(self.files[name]) for name in part} for part in (kind.train, kind.test, kind.meta)]
        return replace(kind, archive=(f"{url}/{file}", md5(self.archive)), train=sums[0], test=sums[1], meta=sums[2])

    def unpack(self, root: Path) -> Path:
        folder = root / self.kind.folder
        folder.mkdir(parents=True)
        for name, content in self.files.items():
            (folder / name).write_bytes(content)
        return folder

    def pack(self, root: Path) -> Path:
        root.mkdir(parents=True, exist_ok=True)
        path = root / self.kind.archive[0].rpartition("/")[2]
        path.write_bytes(self.archive)
        return path


KINDS = {"cifar10": CIFAR10, "cifar100": CIFAR100}


def use(monkeypatch: pytest.MonkeyPatch, name: str, kind: CifarFiles) -> None:
    monkeypatch.setitem(sources.SOURCES, name, Source("fake", kind.read))


@pytest.fixture(params=KINDS)
def fake(request, monkeypatch):
    made = FakeCifar(KINDS[request.param])
    use(monkeypatch, request.param, made.kind)
    made.name = request.param
    return made


def config(fake, root: Path, **fields) -> DataConfig:
    return DataConfig(source=fake.name, root=str(root), **fields)


def listing(root: Path) -> set[str]:
    return {str(p.relative_to(root)) for p in root.rglob("*")}


def test_published_files_and_sums_are_torchvisions():
    for ours, theirs in ((CIFAR10, torchvision.datasets.CIFAR10), (CIFAR100, torchvision.datasets.CIFAR100)):
        assert ours.archive == (theirs.url, theirs.tgz_md5)
        assert ours.folder == theirs.base_folder
        assert ours.train == dict(theirs.train_list)
        assert ours.test == dict(theirs.test_list)
        assert ours.meta == {theirs.meta["filename"]: theirs.meta["md5"]}
        assert ours.names_key == theirs.meta["key"]


def test_reads_what_torchvision_reads(fake, tmp_path, monkeypatch):
    fake.unpack(tmp_path)
    theirs = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[fake.name]
    monkeypatch.setattr(theirs, "train_list", [list(i) for i in fake.kind.train.items()])
    monkeypatch.setattr(theirs, "test_list", [list(i) for i in fake.kind.test.items()])
    (meta,) = fake.kind.meta.items()
    monkeypatch.setattr(theirs, "meta", {"filename": meta[0], "key": fake.kind.names_key, "md5": meta[1]})
    data = load_dataset(config(fake, tmp_path, val_fraction=0.0))
    for train, split in ((True, data.train), (False, data.test)):
        expected = theirs(str(tmp_path), train=train)
        assert np.array_equal(split.images.transpose(0, 2, 3, 1), expected.data)
        assert split.labels.tolist() == expected.targets
        assert split.sources.tolist() == list(range(len(expected)))
    assert list(data.classes) == expected.classes


def test_folder_root_as_folder_and_archive_agree(fake, tmp_path):
    folder = fake.unpack(tmp_path / "unpacked")
    archive = fake.pack(tmp_path / "packed")
    roots = (folder.parent, folder, archive.parent)
    before = listing(tmp_path)
    datasets = [load_dataset(config(fake, root, download=False)) for root in roots]
    assert len({data.fingerprint for data in datasets}) == 1
    for data in datasets[1:]:
        assert np.array_equal(data.train.images, datasets[0].train.images)
    assert listing(tmp_path) == before  # read in memory: nothing is unpacked


def test_home_is_expanded(fake, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    fake.unpack(tmp_path / "sets")
    assert len(load_dataset(config(fake, Path("~/sets"), download=False)).test) == 40


def test_read_only_folder_is_enough(fake, tmp_path):
    folder = fake.unpack(tmp_path)
    before = listing(tmp_path)
    for path in (*folder.iterdir(), folder, tmp_path):
        path.chmod(0o444 if path.is_file() else 0o555)
    try:
        load_dataset(config(fake, tmp_path))
    finally:
        tmp_path.chmod(0o755)
        folder.chmod(0o755)
    assert listing(tmp_path) == before  # also when root runs the tests


def test_missing_names_both_places_and_writes_nothing(fake, tmp_path):
    root = tmp_path / "absent"
    with pytest.raises(DataError) as caught:
        load_dataset(config(fake, root, download=False))
    for text in (str(root / fake.kind.folder), fake.kind.archive[0].rpartition("/")[2], "--data.root"):
        assert text in str(caught.value)
    assert not root.exists()


def test_incomplete_folder_names_what_lacks(fake, tmp_path):
    folder = fake.unpack(tmp_path)
    (test,) = fake.kind.test
    (folder / test).unlink()
    with pytest.raises(DataError, match=f"{folder} lacks {test}"):
        load_dataset(config(fake, tmp_path))


@pytest.mark.parametrize("part", ["train", "test", "meta"])
def test_damaged_file_is_named_and_never_unpickled(fake, tmp_path, monkeypatch, part):
    folder = fake.unpack(tmp_path)
    name = list(getattr(fake.kind, part))[-1]
    damaged = bytearray(fake.files[name])
    damaged[len(damaged) // 2] ^= 1
    (folder / name).write_bytes(damaged)
    read = []

    def loads(raw, **options):
        read.append(bytes(raw))
        return original(raw, **options)

    original = pickle.loads
    monkeypatch.setattr(cifar.pickle, "loads", loads)
    with pytest.raises(DataError, match=rf"{folder / name} is damaged.*{md5(bytes(damaged))}"):
        load_dataset(config(fake, tmp_path))
    assert bytes(damaged) not in read


def test_damaged_archive_is_named_and_never_opened(fake, tmp_path, monkeypatch):
    path = fake.pack(tmp_path)
    path.write_bytes(fake.archive[:-7])
    monkeypatch.setattr(cifar.tarfile, "open", lambda *_: pytest.fail("opened"))
    with pytest.raises(DataError, match=f"{path} is damaged"):
        load_dataset(config(fake, tmp_path))


def test_no_network_names_the_place_for_the_file(fake, tmp_path):
    with pytest.raises(DataError) as caught:
        load_dataset(config(fake, tmp_path))
    file = fake.kind.archive[0].rpartition("/")[2]
    assert f"{NOWHERE}/{file}" in str(caught.value)
    assert str(tmp_path / file) in str(caught.value)
    assert listing(tmp_path) == set()


class Server:
    """Serves `body`, claiming `length` bytes; `watch` sees the folder's files while the answer is under way."""

    def __init__(self, body: bytes, length: int | None = None, status: int = 200, watch=lambda: None) -> None:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.requests += 1
                self.send_response(status)
                self.send_header("Content-Length", str(length or len(body)))
                self.end_headers()
                half = len(body) // 2
                self.wfile.write(body[:half])
                self.wfile.flush()
                watch()
                self.wfile.write(body[half:])

            def log_message(self, *_):
                pass

        self.requests = 0
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Server:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}"


def test_download_appears_complete_and_once(fake, tmp_path, monkeypatch):
    root, seen = tmp_path / "new" / "data", []
    with Server(fake.archive, watch=lambda: seen.append([p.name for p in root.iterdir()])) as server:
        kind = fake.described(KINDS[fake.name], server.url)
        use(monkeypatch, fake.name, kind)
        first = load_dataset(config(fake, root))
        again = load_dataset(config(fake, root))
        assert server.requests == 1
    file = kind.archive[0].rpartition("/")[2]
    assert seen
    assert file not in seen[0]  # half way, the final name is not there
    assert listing(root) == {file}
    assert (root / file).read_bytes() == fake.archive
    assert first.fingerprint == again.fingerprint


@pytest.mark.parametrize(
    "answer",
    [{"body": b"<html>captive portal</html>"}, {"body": b"gone", "status": 404}, {"body": b"short", "length": 10**6}],
    ids=["other", "404", "cut"],
)
def test_bad_download_leaves_nothing(fake, tmp_path, monkeypatch, answer):
    with Server(**answer) as server:
        use(monkeypatch, fake.name, fake.described(KINDS[fake.name], server.url))
        with pytest.raises(DataError) as caught:
            load_dataset(config(fake, tmp_path))
    assert server.url in str(caught.value)  # what to fetch, not a temporary file's name
    assert "/." not in str(caught.value)
    assert listing(tmp_path) == set()


def test_download_into_the_folder_that_root_names(fake, tmp_path, monkeypatch):
    """`root` may be the data set's own folder; a download for it must still be found the next time."""
    root = tmp_path / fake.kind.folder
    with Server(fake.archive) as server:
        use(monkeypatch, fake.name, fake.described(KINDS[fake.name], server.url))
        load_dataset(config(fake, root))
        load_dataset(config(fake, root, download=False))


def test_download_to_a_place_that_cannot_be_written(fake, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"--data\.root"):
        load_dataset(config(fake, tmp_path / "file" / "data"))


@pytest.mark.parametrize("label", [10, -1])
def test_labels_outside_the_classes(tmp_path, monkeypatch, label):
    bad = FakeCifar(CIFAR10, bad_label=label)
    use(monkeypatch, "cifar10", bad.kind)
    bad.unpack(tmp_path)
    with pytest.raises(DataError, match=rf"test labels run from .*{label}.*10 classes"):
        load_dataset(DataConfig(source="cifar10", root=str(tmp_path)))


def test_empty_split(monkeypatch):
    some = Split(np.zeros((4, 1, 2, 2), np.uint8), np.zeros(4, np.int64), np.arange(4))
    made = Published(("a",), {"train": some, "test": some.take(np.arange(0))})
    monkeypatch.setitem(sources.SOURCES, "odd", Source("", lambda _: made))
    with pytest.raises(DataError, match="test split holds no images"):
        load_dataset(DataConfig(source="odd"))


def test_unknown_source_and_split():
    with pytest.raises(UsageError, match="Did you mean 'cifar10'"):
        load_dataset(DataConfig(source="cifar-10"))
    data = load_dataset(DataConfig(val_fraction=0.0))
    with pytest.raises(UsageError, match="Did you mean 'val'"):
        data.split("vall")
    with pytest.raises(UsageError, match="val-fraction"):
        data.split("val")
    assert data.split("test") == ("test", data.test)
    assert data.split() == ("test", data.test)


@pytest.mark.parametrize("val_fraction", [0.0, 0.1, 0.5])
def test_digits(val_fraction):
    data = load_dataset(DataConfig(val_fraction=val_fraction))
    splits = (data.train, data.val, data.test)
    assert data.classes == tuple("0123456789")
    assert sum(map(len, splits)) == 1797
    assert sorted(np.concatenate([s.sources for s in splits])) == list(range(1797))  # disjoint and complete
    assert len(data.val) == pytest.approx(val_fraction * (1797 - len(data.test)), abs=5)
    for split in splits:
        assert split.images.dtype == np.uint8
        assert split.images.shape == (len(split), 1, 8, 8)
    assert np.unique(np.concatenate([s.images for s in splits])).tolist() == np.rint(np.arange(17) * 255 / 16).tolist()
    for label in range(10):
        assert (data.test.labels == label).sum() == pytest.approx(36, abs=2)


def test_test_split_never_moves():
    variants = [{}, {"val_fraction": 0.5}, {"split_seed": 7}, {"fraction": 0.3}]
    tests = [load_dataset(DataConfig(**fields)).test for fields in variants]
    assert all(np.array_equal(tests[0].sources, test.sources) for test in tests)
    assert all(np.array_equal(tests[0].images, test.images) for test in tests)


@pytest.mark.parametrize("fraction", [0.5, 0.1])
def test_fraction_keeps_a_stratified_part(fraction):
    whole = load_dataset(DataConfig(val_fraction=0.0))
    part = load_dataset(DataConfig(val_fraction=0.2, fraction=fraction))
    kept = np.concatenate([part.train.sources, part.val.sources])
    assert set(kept) < set(whole.train.sources)
    for label in range(10):
        expected = fraction * (whole.train.labels == label).sum()
        found = (part.train.labels == label).sum() + (part.val.labels == label).sum()
        assert abs(found - expected) <= 0.5


def test_a_fraction_too_small_for_any_image():
    with pytest.raises(UsageError, match="leave no training images"):
        load_dataset(DataConfig(fraction=1e-4))


@pytest.mark.parametrize("name", sources.SOURCES)
def test_every_reader_is_where_its_source_says(name):
    source = sources.SOURCES[name]
    assert callable(pkgutil.resolve_name(source.reader))
    assert source.about


def test_a_source_of_ones_own_by_name(tmp_path, monkeypatch):
    (tmp_path / "own_reader.py").write_text(
        "from alexnet.data.digits import read_digits\n\ndef read(config):\n    return read_digits(config)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sources.SOURCES, "own", Source("", "own_reader:read"))
    assert load_dataset(DataConfig(source="own")).fingerprint == load_dataset(DataConfig()).fingerprint


def test_fingerprint_follows_the_data(monkeypatch):
    def print_of(**fields) -> str:
        return load_dataset(DataConfig(**fields)).fingerprint

    plain = print_of()
    assert plain == print_of()
    assert len({plain, print_of(split_seed=1), print_of(val_fraction=0.2), print_of(fraction=0.5)}) == 4
    assert plain == print_of(root="elsewhere", download=False, pad=3, flip=True)
    whole = print_of(val_fraction=0.0)  # with a validation part, a changed label would move images too
    read = sources.SOURCES["digits"].read(DataConfig())
    train, test, classes = read.parts["train"], read.parts["test"], read.classes
    pixels, labels = train.images.copy(), train.labels.copy()
    pixels[5, 0, 3, 3] ^= 1
    labels[5] = (labels[5] + 1) % 10
    changes = [
        (replace(train, images=pixels), test, classes),
        (replace(train, labels=labels), test, classes),
        (train, test, (*classes[:9], "nine")),
    ]
    for changed in changes:
        *parts, names = changed
        made = Published(names, dict(zip(("train", "test"), parts, strict=True)))
        monkeypatch.setitem(sources.SOURCES, "digits", Source("", lambda _, made=made: made))
        assert print_of(val_fraction=0.0) != whole


LABELS = st.lists(st.integers(0, 5), min_size=1, max_size=60).map(lambda x: np.array(x, dtype=np.int64))


@settings(deadline=None)
@given(labels=LABELS, fraction=st.floats(0, 1), seed=st.integers(0, 2**32))
def test_stratify(labels, fraction, seed):
    first, second = stratify(labels, fraction, np.random.default_rng(seed))
    assert sorted([*first, *second]) == list(range(len(labels)))
    assert list(first) == sorted(first)
    assert list(second) == sorted(second)
    for label in np.unique(labels):
        assert (labels[first] == label).sum() == round((labels == label).sum() * fraction)
    again, _ = stratify(labels, fraction, np.random.default_rng(seed))
    assert np.array_equal(first, again)


def test_stratify_draws_by_seed():
    labels = np.repeat(np.arange(3), 50)
    drawn = {tuple(stratify(labels, 0.5, np.random.default_rng(seed))[0]) for seed in range(5)}
    assert len(drawn) == 5
