"""A preprocessor_config.json that is not as it should be is told, never a traceback."""

import json

import pytest

from pellucid.data.images import ImageReader
from pellucid.errors import ConfigError


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ([], "found list; expected a table of settings"),
        ({"resample": "bilinear"}, r"resample: found 'bilinear'; expected the number of a filter, from 0 to 5"),
        ({"resample": None}, "resample: found None"),
        ({"resample": 6}, "resample: found 6"),
        ({"resample": True}, "resample: found True"),
        ({"rescale_factor": None}, "rescale_factor: found None; expected a number"),
        ({"rescale_factor": "1/255"}, "rescale_factor: found '1/255'"),
        ({"image_mean": [0.5, "x", 0.5]}, r"image_mean: found \[0\.5, 'x', 0\.5\]; expected numbers"),
        ({"image_std": [0.5, 0, 0.5]}, "image_std: found .* none that is 0"),
    ],
    ids=str,
)
def test_values_of_a_wrong_kind(tmp_path, told, message):
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(told))
    with pytest.raises(ConfigError, match=message):
        ImageReader.of(tmp_path, 12, 3)


def test_numbers_are_taken_as_they_are(tmp_path):
    told = {"resample": 3, "rescale_factor": 0.5, "image_mean": [0, 0.5, 1], "image_std": [1, 2, 0.5]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(told))
    reader = ImageReader.of(tmp_path, 12, 3)
    assert (reader.resample, reader.scale, reader.mean, reader.deviation) == (3, 0.5, (0, 0.5, 1), (1, 2, 0.5))
