"""CIFAR-100, CIFAR-100-C and Tiny ImageNet, from small files of exactly the standard layout."""

import gzip
import io
import json
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image
from webdataset.compat import WebDataset

from selection.errors import ArtifactError, ConfigError
from selection.progress import silent
from selection.shards import build_index
from trainer.datasets import shard_writer
from trainer.datasets.cifar100 import write_cifar100
from trainer.datasets.cifar100_c import count_corruptions, write_cifar100_c
from trainer.datasets.tiny_imagenet import write_tiny_imagenet

FINE = [f"fine{number}" for number in range(100)]
COARSE = [f"coarse{number}" for number in range(20)]
CORRUPTIONS = ["brightness", "fog", "jpeg_compression"]
NUM_CORRUPTED = 7


def add(tar, name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def read(folder, part):
    urls = sorted(str(path) for path in (folder / part).glob("*.tar"))
    return list(WebDataset(urls, shardshuffle=False))


def pixels(content):
    return np.asarray(Image.open(io.BytesIO(content)))


@pytest.fixture
def cifar():
    """Images and labels of both files: (coarse, fine, [3, 32, 32])."""
    rng = np.random.default_rng(0)

    def records(number):
        return [
            (
                rng.integers(20),
                rng.integers(100),
                rng.integers(0, 256, (3, 32, 32), dtype=np.uint8),
            )
            for _ in range(number)
        ]

    return {"train.bin": records(9), "test.bin": records(4)}


@pytest.fixture
def binary(cifar, tmp_path):
    source = tmp_path / "cifar-100-binary.tar.gz"
    files = {
        name: b"".join(bytes([c, f]) + x.tobytes() for c, f, x in records)
        for name, records in cifar.items()
    }
    files["fine_label_names.txt"] = "".join(f"{name}\n" for name in FINE).encode()
    files["coarse_label_names.txt"] = "".join(f"{name}\n" for name in COARSE).encode()
    with tarfile.open(source, "w:gz") as tar:
        for name, content in files.items():
            add(tar, f"cifar-100-binary/{name}", content)
    return source


@pytest.mark.parametrize("num_workers", [1, 2])
def test_cifar_100_is_written_as_it_is(cifar, binary, tmp_path, num_workers, monkeypatch):
    monkeypatch.setattr(shard_writer, "PAIRS_PER_SHARD", 4)
    manifest = write_cifar100(tmp_path / "data", binary, num_workers, silent)
    assert (manifest["train"]["num_pairs"], manifest["heldout"]["num_pairs"]) == (9, 4)
    for part, name in (("train", "train.bin"), ("heldout", "test.bin")):
        samples = read(tmp_path / "data", part)
        assert len(samples) == len(cifar[name])
        for sample, (coarse, fine, image) in zip(samples, cifar[name], strict=True):
            assert json.loads(sample["json"]) == {"fine": FINE[fine], "coarse": COARSE[coarse]}
            assert np.array_equal(pixels(sample["png"]), image.transpose(1, 2, 0))


def test_pickled_cifar_is_refused_and_not_read(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (tmp_path.joinpath("exploded").touch, ())

    source = tmp_path / "cifar-100-python.tar.gz"
    with tarfile.open(source, "w:gz") as tar:
        for name in ("train", "test", "meta", "file.txt~"):
            add(tar, f"cifar-100-python/{name}", pickle.dumps(Bomb()))
    with pytest.raises(
        ConfigError, match=r"pickles.*get the binary one, https://.*binary\.tar\.gz"
    ):
        write_cifar100(tmp_path / "data", source, 1, silent)
    assert not (tmp_path / "exploded").exists()


def test_damaged_cifar_is_named(binary, tmp_path):
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(binary.read_bytes()[:3000])
    with pytest.raises(ArtifactError, match="cannot be read"):
        write_cifar100(tmp_path / "data", cut, 1, silent)
    with pytest.raises(ConfigError, match="is no file; get https"):
        write_cifar100(tmp_path / "data", tmp_path / "none", 1, silent)
    other = tmp_path / "other.tar"
    with tarfile.open(other, "w") as tar:
        add(tar, "readme.txt", b"hello")
    with pytest.raises(ConfigError, match=r"holds no .*; get https"):
        write_cifar100(tmp_path / "data", other, 1, silent)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (b"", r"train\.bin has 0 bytes, expected a multiple of 3074"),
        (bytes(3075), r"train\.bin has 3075 bytes, expected a multiple of 3074"),
        (bytes([20, 0]) + bytes(3072), r"train\.bin has a label without a name"),
    ],
)
def test_records_that_cannot_be(tmp_path, train, message):
    source = tmp_path / "cifar-100-binary.tar.gz"
    names = {"fine_label_names.txt": FINE, "coarse_label_names.txt": COARSE}
    with tarfile.open(source, "w:gz") as tar:
        for name, content in (("train.bin", train), ("test.bin", bytes(3074))):
            add(tar, name, content)
        for name, lines in names.items():
            add(tar, name, "\n".join(lines).encode())
    with pytest.raises(ArtifactError, match=message):
        write_cifar100(tmp_path / "data", source, 1, silent)


def test_another_source_is_another_data_set(binary, tmp_path):
    write_cifar100(tmp_path / "data", binary, 1, silent)
    write_cifar100(tmp_path / "data", binary, 1, silent)
    again = tmp_path / "again.tar.gz"
    again.write_bytes(binary.read_bytes() + b"\0")
    with pytest.raises(ConfigError, match="holds a data set made with source"):
        write_cifar100(tmp_path / "data", again, 1, silent)


# CIFAR-100-C


@pytest.fixture
def corrupted():
    rng = np.random.default_rng(1)
    shape = (5 * NUM_CORRUPTED, 32, 32, 3)
    return {name: rng.integers(0, 256, shape, dtype=np.uint8) for name in CORRUPTIONS}


@pytest.fixture(params=["folder", "tar"])
def cifar_c(request, corrupted, tmp_path):
    folder = tmp_path / "CIFAR-100-C"
    folder.mkdir()
    for name, array in corrupted.items():
        np.save(folder / f"{name}.npy", array)
    np.save(folder / "labels.npy", np.zeros(5 * NUM_CORRUPTED, np.uint8))
    if request.param == "folder":
        return folder
    with tarfile.open(tmp_path / "CIFAR-100-C.tar", "w") as tar:
        tar.add(folder, "CIFAR-100-C")
    return tmp_path / "CIFAR-100-C.tar"


@pytest.mark.parametrize("severity", [1, 4])
def test_cifar_100_c_is_written_in_pools(cifar_c, corrupted, tmp_path, severity, monkeypatch):
    monkeypatch.setattr(shard_writer, "PAIRS_PER_SHARD", 5)  # no multiple of a pool
    manifest = write_cifar100_c(tmp_path / "data", cifar_c, severity, 1, silent)
    assert manifest["corrupted"] == {"num_pairs": 21, "corruptions": CORRUPTIONS}
    shards = sorted((tmp_path / "data" / "corrupted").glob("*.tar"))
    index = build_index(shards, tmp_path / "index")
    assert count_corruptions(index) == len(CORRUPTIONS)
    with pytest.raises(ArtifactError, match="the first image has 3 corruptions, but 5 samples"):
        count_corruptions(build_index(shards[:1], tmp_path / "cut"))
    samples = index.read(np.arange(21))
    for number, sample in enumerate(samples):
        image, corruption = divmod(number, len(CORRUPTIONS))
        name = CORRUPTIONS[corruption]
        expected = {"image": image, "corruption": name, "severity": severity}
        assert json.loads(sample["json"]) == expected
        array = corrupted[name][(severity - 1) * NUM_CORRUPTED + image]
        assert np.array_equal(pixels(sample["png"]), array)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([{}] * 35, dtype=object), "holds object"),
        (np.zeros((35, 32, 32, 3), np.float32), "holds float32"),
        (np.zeros((35, 32, 32), np.uint8), r"holds uint8 \(35, 32, 32\)"),
        (np.zeros((30, 32, 32, 3), np.uint8), r"has shape \(30, 32, 32, 3\), expected \(35"),
        (b"no array", r"snow\.npy is no \.npy file"),
    ],
)
def test_arrays_of_another_kind_are_refused(corrupted, tmp_path, array, message):
    folder = tmp_path / "c"
    folder.mkdir()
    for name, content in corrupted.items():
        np.save(folder / f"{name}.npy", content)
    if isinstance(array, bytes):
        (folder / "snow.npy").write_bytes(array)
    else:
        np.save(folder / "snow.npy", array, allow_pickle=True)
    with pytest.raises(ArtifactError, match=message):
        write_cifar100_c(tmp_path / "data", folder, 1, 1, silent)


def test_other_images_of_the_same_corruptions_are_another_data_set(corrupted, tmp_path):
    """CIFAR-10-C has the same names and shapes."""
    for name, change in (("ours", 0), ("theirs", 1)):
        (tmp_path / name).mkdir()
        for corruption, array in corrupted.items():
            np.save(tmp_path / name / f"{corruption}.npy", array + np.uint8(change))
    for _ in range(2):
        write_cifar100_c(tmp_path / "data", tmp_path / "ours", 1, 1, silent)
    with pytest.raises(ConfigError, match="holds a data set made with source"):
        write_cifar100_c(tmp_path / "data", tmp_path / "theirs", 1, 1, silent)


def test_what_is_cut_off_or_compressed_is_refused(cifar_c, tmp_path):
    is_folder = cifar_c.is_dir()
    path = cifar_c / "fog.npy" if is_folder else cifar_c
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    message = r"fog\.npy is cut off" if is_folder else "is cut off|is no tar"
    with pytest.raises(ArtifactError, match=message):
        write_cifar100_c(tmp_path / "data", cifar_c, 1, 1, silent)
    if not is_folder:
        path.write_bytes(gzip.compress(content))
        with pytest.raises(ArtifactError, match=r"is no tar .* unpack it if it was compressed"):
            write_cifar100_c(tmp_path / "data", cifar_c, 1, 1, silent)


def test_no_corruptions_are_a_mistake_of_the_user(tmp_path):
    with pytest.raises(ConfigError, match="neither a file nor a folder"):
        write_cifar100_c(tmp_path / "data", tmp_path / "none", 1, 1, silent)
    with pytest.raises(ConfigError, match=r"holds no \.npy file"):
        write_cifar100_c(tmp_path / "data", tmp_path, 1, 1, silent)


# Tiny ImageNet


@pytest.fixture
def tiny(tmp_path):
    source = tmp_path / "tiny-imagenet-200.zip"
    rng = np.random.default_rng(2)

    def jpeg():
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(file, "JPEG")
        return file.getvalue()

    root = "tiny-imagenet-200"
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr(f"{root}/wnids.txt", "n01\nn02\n")
        archive.writestr(f"{root}/words.txt", "n01\tgoldfish, carp\nn02\tfrog\nn03\tanother\n")
        for wnid in ("n01", "n02"):
            archive.writestr(
                f"{root}/train/{wnid}/{wnid}_boxes.txt", f"{wnid}_0.JPEG\t0\t0\t9\t9\n"
            )
            for number in range(6):
                archive.writestr(f"{root}/train/{wnid}/images/{wnid}_{number}.JPEG", jpeg())
        lines = []
        for number in range(4):
            archive.writestr(f"{root}/val/images/val_{number}.JPEG", jpeg())
            lines.append(f"val_{number}.JPEG\tn0{1 + number % 2}\t0\t0\t9\t9\n")
        archive.writestr(f"{root}/val/val_annotations.txt", "".join(lines))
        archive.writestr(f"{root}/test/images/test_0.JPEG", jpeg())
    return source


def test_tiny_imagenet_is_copied_and_shuffled(tiny, tmp_path):
    manifest = write_tiny_imagenet(tmp_path / "data", tiny, 1, silent)
    assert (manifest["train"]["num_pairs"], manifest["heldout"]["num_pairs"]) == (12, 4)
    with zipfile.ZipFile(tiny) as archive:
        files = {archive.read(name): name for name in archive.namelist()}
    names = {"n01": "goldfish, carp", "n02": "frog"}
    order = []
    for sample in read(tmp_path / "data", "train"):
        told = json.loads(sample["json"])
        assert files[sample["jpg"]].startswith(f"tiny-imagenet-200/train/{told['class']}/images/")
        assert told["name"] == names[told["class"]]
        order.append(files[sample["jpg"]])
    assert len(set(order)) == 12
    assert order != sorted(order)
    heldout = read(tmp_path / "data", "heldout")
    for number, sample in enumerate(heldout):
        assert files[sample["jpg"]] == f"tiny-imagenet-200/val/images/val_{number}.JPEG"
        assert json.loads(sample["json"])["class"] == f"n0{1 + number % 2}"


def test_what_is_not_tiny_imagenet_is_refused(tmp_path):
    other = tmp_path / "other.zip"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ConfigError, match=r"is not tiny-imagenet-200\.zip"):
        write_tiny_imagenet(tmp_path / "data", other, 1, silent)
    other.write_bytes(b"no archive")
    with pytest.raises(ArtifactError, match="cannot be read"):
        write_tiny_imagenet(tmp_path / "data", other, 1, silent)
    with pytest.raises(ConfigError, match="is no file"):
        write_tiny_imagenet(tmp_path / "data", tmp_path / "none.zip", 1, silent)


def test_a_damaged_image_of_tiny_imagenet_is_named(tiny, tmp_path):
    with zipfile.ZipFile(tiny) as archive:
        name = "tiny-imagenet-200/val/images/val_2.JPEG"
        content = archive.read(name)
    tiny.write_bytes(tiny.read_bytes().replace(content, bytes(len(content))))
    with pytest.raises(ArtifactError, match=rf"{name} cannot be read \(Bad CRC-32"):
        write_tiny_imagenet(tmp_path / "data", tiny, 1, silent)


@pytest.mark.parametrize(
    ("line", "message"),
    [("val_9.JPEG\tn01\t0\t0\t9\t9\n", r"lacks .*val_9\.JPEG"), ("no tab\n", "cannot be read")],
)
def test_annotations_of_what_is_not_there(tiny, tmp_path, line, message):
    with zipfile.ZipFile(tiny) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    files["tiny-imagenet-200/val/val_annotations.txt"] += line.encode()
    with zipfile.ZipFile(tiny, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    with pytest.raises(ArtifactError, match=message):
        write_tiny_imagenet(tmp_path / "data", tiny, 1, silent)
