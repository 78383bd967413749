"""Where images come from and how they are cut: the settings of `--data`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from alexnet.config.ranges import Range, check_ranges
from alexnet.config.values import coerce_fields, flag
from alexnet.errors import UsageError

LARGEST_SIDE = 4096  # pixels
RESIZE, CROP = 256, 224  # pixels of photographs, unless configured (section 2, section 4.1)


@dataclass(frozen=True)
class DataConfig:
    """Where images come from and how they are cut."""

    source: str = "digits"
    """Data set: see `alexnet list data`."""
    root: str = "data"
    """Folder that holds the data set, or receives its download; of source table the CSV file."""
    path_column: str = "path"
    """Source table: the column of paths, absolute or relative to the table's folder; with relative ones a run can go on
    where table and photographs have moved."""
    label_column: str = "label"
    """Source table: the column of labels."""
    split_column: str | None = None
    """Source table: the column that says train, val or test; without it the column "split" where there is one, and
    where there is none the photographs are split anew."""
    download: bool = True
    """Download a data set that is not under the root."""
    val_fraction: float = 0.1
    """Part of the training set held out for validation, stratified and seeded."""
    split_seed: int = 0
    """Seed of the validation split, of --data.fraction, --data.per-class and, where it is drawn, of the test split; the
    training seed does not move them."""
    fraction: float = 1.0
    """Part of the training set to use at all."""
    per_class: int | None = None
    """Train on so many images of each class (all of a class that has fewer), drawn after the validation split was held
    out, which stays the same; the first 8 are among the first 32."""
    top_classes: int | None = None
    """Keep this many classes, those with the most images (photographs)."""
    resplit: bool = False
    """Pool the published training and test photographs and split them anew with the seed."""
    test_fraction: float = 0.1
    """Part held out for testing where the photographs come without splits, or with --data.resplit."""
    orientation: Literal["apply", "ignore"] | None = None
    """Turn photographs upright as their EXIF tag says, or take the pixels as they lie; without it photographs of the
    sources folder and table are turned, as predict turns pictures, and published data sets are not, and prepared ones
    keep what they were prepared with."""
    resize: int | None = None
    """Resize the short side to this many pixels; photographs: 256 unless given."""
    crop: int | None = None
    """Side of the crop: random in training, central in evaluation; photographs: 224 unless given."""
    random_resized_crop: bool = False
    """Train on crops of random area and aspect, resized (photographs; torchvision's recipe)."""
    min_area: float = 0.08
    """Smallest part of the area that such a crop covers."""
    pad: int = 0
    """Zero pixels around a training image before the random crop; of nine or ten views in the test the outer ones begin
    there too."""
    flip: bool = False
    """Mirror half of the training images, drawn per image."""
    alternate_flips: bool = False
    """With --data.flip: each image is mirrored in every second epoch, in the even or the odd ones as drawn once for it,
    so that no two epochs in a row show the same side of it."""
    crop_chunk: int = 1
    """So many training images in a row, in the order of the epoch, share one place of the crop and one flip: 1 draws
    for each image, the released code for 32 (convdata_jpeg.py). Flips that take turns stay each image's own."""
    reshuffle: bool = True
    """Visit the training images in a new order every epoch; --data.no-reshuffle keeps that of the first, as the
    released code does."""
    colour_noise: float = 0.0
    """Standard deviation of the PCA colour noise's alpha (section 4.1: 0.1); 0 is off."""
    noise_probability: float = 1.0
    """Part of the training images that get colour noise, drawn per image and use."""
    noise_divisor: float = 1.0
    """What the normalised training images are divided by while they get colour noise; the released code has 1.1."""
    noise_until: int | None = None
    """The last epoch with colour noise; without it all have it."""
    mean: tuple[float, ...] | None = None
    """Mean per channel on the 0-1 scale; without it the training split's own, of photographs that were not prepared in
    their splits ImageNet's."""
    std: tuple[float, ...] | None = None
    """Standard deviation per channel on the 0-1 scale; without it as for the mean."""
    mean_image: bool = False
    """Subtract the training set's mean image from every crop, wherever it was cut: the centre of it, as the released
    code does. Photographs have one where they were prepared, elsewhere the mean per channel is subtracted."""
    workers: int | None = None
    """Threads that decode photographs; without it one a core, at most 16."""
    cache: float = 1.0
    """Memory in GiB, for each split (and process), that keeps photographs decoded from the second epoch on, as many as
    fit, so that later epochs need not decode them again; 0 keeps none. Crops of --data.random-resized-crop are never
    kept: every epoch cuts others."""
    max_bad: float = 0.001
    """Part of a split's photographs that may be unreadable before the run stops."""

    def __post_init__(self) -> None:
        coerce_fields(self, "data.")
        side = Range(least=1, most=LARGEST_SIDE)
        check_ranges(
            self,
            "data.",
            val_fraction=Range(least=0, below=1),
            split_seed=Range(least=0),
            fraction=Range(above=0, most=1),
            per_class=Range(least=1),
            top_classes=Range(least=1),
            test_fraction=Range(least=0, below=1),
            resize=side,
            crop=side,
            min_area=Range(above=0, most=1),
            crop_chunk=Range(least=1),
            pad=Range(least=0, most=LARGEST_SIDE),
            colour_noise=Range(least=0),
            noise_probability=Range(least=0, most=1),
            noise_divisor=Range(above=0),
            noise_until=Range(least=1),
            mean=Range(),
            std=Range(above=0),
            workers=Range(least=1, most=1024),
            cache=Range(least=0, most=2**20),
            max_bad=Range(least=0, most=1),
        )
        if self.random_resized_crop and self.crop_chunk > 1:
            raise UsageError(f"{flag('data.crop_chunk')} does not go with {flag('data.random_resized_crop')}.")
