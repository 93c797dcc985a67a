"""VOC's archives: fetched, compared with their checksum, and unpacked without leaving their folder."""

from __future__ import annotations

import tarfile
from pathlib import Path, PurePosixPath

from torchvision.datasets.utils import download_url
from torchvision.datasets.voc import DATASET_YEAR_DICT


def fetch_voc(parent: Path, year: int, test: bool) -> None:
    """Downloads and unpacks a year of VOC, `VOCdevkit/VOC<year>`, into a folder.

    An archive that lies there and has the published md5 is not fetched again.

    Args:
        parent: The folder that gets the archive and the `VOCdevkit`.
        year: 2007 to 2012.
        test: The test images of 2007 instead of those to train and validate on.

    Raises:
        ValueError: There is no such year, it cannot be fetched, its md5 is not the published one, or it cannot be
            unpacked; nothing has been unpacked then.
    """
    source = DATASET_YEAR_DICT.get(f"{year}-test" if test else str(year))
    if source is None:
        raise ValueError(f"data.years: VOC {year} cannot be downloaded; there are 2007 to 2012. Correct data.years.")
    try:
        download_url(source["url"], str(parent), source["filename"], source["md5"])
    except (OSError, RuntimeError) as error:  # RuntimeError: torchvision's for another checksum
        raise ValueError(
            f"data.download: {source['url']} could not be fetched to {parent}, or is damaged ({error}). Try again, or "
            f"put {source['filename']} (md5 {source['md5']}) there yourself."
        ) from None
    unpack(parent / source["filename"], parent)


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks a tar archive; all members are checked before the first is written.

    Raises:
        ValueError: A member would lie, or is a link that leads, outside of the folder, or is no file, folder or link;
            or the archive is damaged. Names archive and member.
    """
    try:
        with tarfile.open(archive) as tar:
            members = tar.getmembers()
            for member in members:
                places = [member.name, member.linkname] if member.issym() or member.islnk() else [member.name]
                known = member.isfile() or member.isdir() or len(places) == 2
                if not known or any(_leaves(place) for place in places):
                    raise ValueError(f"{archive}: holds {member.name!r}, which is not unpacked: it leaves the folder.")
            # Python's own filter, where there is one (3.11.4), also looks at links on the disk and at permissions.
            if hasattr(tarfile, "data_filter"):
                tar.extractall(folder, members, filter="data")
            else:
                tar.extractall(folder, members)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ValueError(f"{archive}: cannot be unpacked to {folder} ({error}). Remove it, and try again.") from None


def _leaves(place: str) -> bool:
    path = PurePosixPath(place.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts
