"""VOC's archives: fetched, compared with their checksum, and unpacked without leaving their folder."""

from __future__ import annotations

import tarfile
from pathlib import Path

from torchvision.datasets.utils import download_url
from torchvision.datasets.voc import DATASET_YEAR_DICT

from anchor_lightning.errors import UserError


def fetch_voc(parent: Path, year: int, test: bool) -> None:
    """Downloads and unpacks a year of VOC, `VOCdevkit/VOC<year>`, into a folder.

    An archive that lies there and has the published md5 is not fetched again.

    Args:
        parent: The folder that gets the archive and the `VOCdevkit`.
        year: 2007 to 2012.
        test: The test images of 2007 instead of those to train and validate on.

    Raises:
        UserError: There is no such year, it cannot be fetched, its md5 is not the published one, or it cannot be
            unpacked; nothing has been unpacked then.
    """
    source = DATASET_YEAR_DICT.get(f"{year}-test" if test else str(year))
    if source is None:
        raise UserError(f"VOC {year} cannot be downloaded; there are 2007 to 2012.", argument="years")
    try:
        download_url(source["url"], str(parent), source["filename"], source["md5"])
    except (OSError, RuntimeError) as error:  # RuntimeError: torchvision's for another checksum
        raise UserError(
            f"{source['url']} could not be fetched to {parent}, or is damaged ({error}). Try again, or put "
            f"{source['filename']} (md5 {source['md5']}) there yourself.",
            argument="download",
        ) from None
    unpack(parent / source["filename"], parent)


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks a tar archive; all members are checked before the first is written.

    Raises:
        UserError: A member, or what a link points to, would lie outside of the folder, or is no file, folder or link;
            or the archive is damaged. Names archive and member.
    """
    try:
        with tarfile.open(archive) as tar:
            for member in (members := tar.getmembers()):
                tarfile.data_filter(member, str(folder))
            tar.extractall(folder, members, filter="data")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"{archive}: cannot be unpacked to {folder} ({error}). Remove it, and try again.") from None
