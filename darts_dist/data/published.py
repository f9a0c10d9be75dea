"""The data sets that others publish: where, with which checksum, under which terms.

Layer 1, of the standard library and `download` alone. It fetches nothing by itself and reads no
pictures; `sources` reads what lies on disk.
"""

import lzma
import os
import pathlib
import struct
import zipfile
import zlib

from darts_dist.data.download import Remote
from darts_dist.errors import DataError, StorageError

# CIFAR: address, and MD5 c58f30108f718f92721af3b95e74349a and eb9058c3a382ffc7106e4002c42a8d85, as
# https://www.cs.toronto.edu/~kriz/cifar.html gives them. SHA-256 of the same addresses as in
# keras/src/datasets/cifar10.py and cifar100.py (github.com/keras-team/keras); bytes as in the
# copies on huggingface.co (wyxu/dataset_copied, cnak47/cv-datasets), whose SHA-256 are the same.
#
# WikiText-2, word level: first published at s3.amazonaws.com/research.metamind.io, which is closed
# (github.com/pytorch/text/issues/2247); its author serves the same files at wikitext.smerity.com.
# SHA-256 and bytes as in datasets/wikitext/dataset_infos.json (github.com/huggingface/datasets);
# torchtext has the MD5 542ccefacc6c27f945fb54453812b3cd.
REMOTES = {
    "cifar10": Remote(
        "cifar-10-python.tar.gz",
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
        170_498_071,
    ),
    "cifar100": Remote(
        "cifar-100-python.tar.gz",
        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
        169_001_437,
    ),
    "wikitext2": Remote(
        "wikitext-2-v1.zip",
        "https://wikitext.smerity.com/wikitext-2-v1.zip",
        "92675f1d63015c1c8b51f1656a52d5bdbc33aafa60cc47a218a66e7ee817488c",
        4_475_746,
    ),
}
"""What may be fetched by a program."""

TEXTS = {
    "train.txt": "wikitext-2/wiki.train.tokens",
    "valid.txt": "wikitext-2/wiki.valid.tokens",
    "test.txt": "wikitext-2/wiki.test.tokens",
}
"""The files of WikiText-2 as `data.kind=text` wants them, and their names in the archive."""
MAX_TEXT_BYTES = 2**26  # the largest has 11 MB

INSTRUCTIONS = {
    "ptb": """\
Penn Treebank: the words of the Wall Street Journal on which the paper searches recurrent cells.

The text is licensed by the Linguistic Data Consortium, so no program may fetch it for you.
1. A licence: Treebank-3, LDC99T42, https://catalog.ldc.upenn.edu/LDC99T42. Many universities
   have one; ask the library.
2. Papers on language models use the text as T. Mikolov prepared it: 10,000 words in lower case,
   numbers as N, rare words as <unk>. It is in the folder data/ of simple-examples.tgz, at
   http://www.fit.vutbr.cz/~imikolov/rnnlm/simple-examples.tgz: ptb.train.txt, ptb.valid.txt,
   ptb.test.txt.
3. Give the three their names, in one folder OUT:
     OUT/train.txt   42,068 lines
     OUT/valid.txt    3,370 lines
     OUT/test.txt     3,761 lines
   This is the layout of data.kind=text, data.path=OUT. WikiText-2 has the same and a free licence:
     prepare_data.py download wikitext2 OUT""",
    "imagenet": """\
ImageNet, ILSVRC 2012: 1,281,167 training and 50,000 validation pictures of 1,000 classes.

It is given for non-commercial research and education to people who have accepted its terms, so no
program may fetch it for you.
1. An account at https://image-net.org/download.php, and there of ILSVRC 2012 (task 1 and 2):
     ILSVRC2012_img_train.tar (138 GB), ILSVRC2012_img_val.tar (6.3 GB),
     ILSVRC2012_devkit_t12.tar.gz
2. Training pictures: the archive holds an archive for each class; each goes to a folder of its own.
     mkdir -p OUT/train && tar -xf ILSVRC2012_img_train.tar -C OUT/train
     for t in OUT/train/*.tar; do mkdir "${t%.tar}" && tar -xf "$t" -C "${t%.tar}" && rm "$t"; done
3. Validation pictures: the archive is one flat folder, and each picture has to be moved to the
   folder of its class, named as in train/. Line N of the devkit's
   data/ILSVRC2012_validation_ground_truth.txt has the number of the class of
   ILSVRC2012_val_0000000N.JPEG, and data/meta.mat has the folder (WNID) of each number
   (ILSVRC2012_ID). These numbers are not the order of the folders' names.
4. The layout that is wanted, data.kind=imagenet data.path=OUT:
     OUT/train/n01440764/*.JPEG   1,000 folders
     OUT/val/n01440764/*.JPEG     the same 1,000 folders, 50 pictures in each
   prepare_data.py check OUT names what is broken in it, arrayrecord OUT DST writes it into 1,065
   large files, subset OUT DST --fraction 0.125 takes a share of each class to search on.""",
}
"""How people come by what no program may fetch, and the layout that is wanted."""


def unpack_texts(archive: pathlib.Path, folder: pathlib.Path, *, force: bool = False) -> None:
    """Writes TEXTS, whole or not at all each, from WikiText-2's archive into a folder.

    Nothing else of the archive is touched, and no name in it becomes a path.  force: replace files
    of these names that are others.  Raises DataError, StorageError.
    """
    texts = _read_texts(archive)
    try:
        for name, text in texts.items():
            path = folder / name
            if not force and path.exists() and path.read_bytes() != text:
                raise DataError(
                    f"{path} is there and is not WikiText-2's; choose another folder, or --force "
                    f"replaces it"
                )
        for name, text in texts.items():
            _write_whole(folder / name, text)
    except OSError as error:
        raise StorageError(
            f"{error.filename or folder} cannot be written or read: {error.strerror or error}"
        ) from None


def _read_texts(archive: pathlib.Path) -> dict[str, bytes]:
    texts = {}
    try:
        with zipfile.ZipFile(archive) as members:
            for name, member in TEXTS.items():
                size = members.getinfo(member).file_size
                if size > MAX_TEXT_BYTES:
                    raise DataError(
                        f"{archive}: {member} says it has {size} bytes; wanted at most "
                        f"{MAX_TEXT_BYTES}"
                    )
                with members.open(member) as file:  # whole `read` would unpack before it counts
                    texts[name] = file.read(size)
                if len(texts[name]) != size:
                    found = len(texts[name])
                    raise zipfile.BadZipFile(f"{member} has {found} bytes, not {size}")
    except KeyError:
        wanted = ", ".join(TEXTS.values())
        raise DataError(f"{archive} is not WikiText-2's archive; wanted in it {wanted}") from None
    except (
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        struct.error,
        EOFError,
        RuntimeError,  # encrypted, or packed in a way that zipfile does not know
        ValueError,
        OSError,
    ) as error:
        raise DataError(f"{archive} cannot be unpacked: {error}") from None
    return texts


def _write_whole(path: pathlib.Path, content: bytes) -> None:
    new = path.with_name(f"{path.name}.new")
    try:
        with open(new, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
