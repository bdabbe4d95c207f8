"""Index maths of the CUDA drivers far past 2^32, block by block, against Python's integers: see indices.cpp."""

import pathlib
import random
import shutil
import subprocess

import pytest

SOURCE = pathlib.Path(__file__).with_name("indices.cpp")
pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    program = tmp_path_factory.mktemp("indices") / "indices"
    flags = ["-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", "-DDGM_EMULATED", "-fsanitize=undefined"]
    subprocess.run(["g++", *flags, "-fno-sanitize-recover=all", SOURCE, "-o", program], check=True)

    def ask(*queries: tuple) -> list[list[list[int]]]:
        text = "\n".join(" ".join(map(str, query)) for query in queries)
        out = subprocess.run([program], input=text, capture_output=True, text=True, check=True).stdout
        found, lines = [], []
        for line in out.splitlines():
            if line == "end":
                found.append(lines)
                lines = []
            else:
                lines.append([int(word) for word in line.split()])
        assert len(found) == len(queries)
        return found

    return ask


def test_positions_and_numbers_of_normals(answers):
    random.seed(0)
    large = [1, 3, 7, 2**16 + 1, 2**31 - 1, 2**32 + 5]
    positions = [
        ("position", random.randrange(2**k), run, pitch, repeat)
        for k in (8, 31, 32, 33, 45)
        for run in large
        for pitch in (run, 2 * run)
        for repeat in (1, 3, 50)
    ]
    for (_, i, run, pitch, repeat), found in zip(positions, answers(*positions), strict=True):
        assert found == [[i // run // repeat * pitch + i % run]]
    numbers = [
        ("number", random.randrange(2**k), 5, channels, pixels)
        for k in (8, 31, 32, 33, 45)
        for channels in (1, 3, 1030, 2**20)
        for pixels in (1, 9, 2**13 + 1, 2**33)
    ]
    for (_, i, first, channels, pixels), found in zip(numbers, answers(*numbers), strict=True):
        row, channel = divmod(i, channels)
        sample, pixel = divmod(row, pixels)
        assert found == [[first + (sample * channels + channel) * pixels + pixel]]


@pytest.mark.parametrize("turns", [1, 8])
@pytest.mark.parametrize("inner", [1, 2, 3, 50, 784, 1023, 1024, 12288, 2**31 + 12, 2**33 + 4])
def test_every_element_of_a_tile_once_with_its_sample(answers, inner, turns):
    tile = 256 * 4 * turns
    queries = []
    for numel in (5, tile, 3 * tile + 7, 2**32 + 13, 2**33 + tile - 2):
        numel = -(-numel // inner) * inner  # whole samples
        last = (numel - 1) // tile
        near = {0, last, last // 2, (2**32 // tile), inner // tile, (inner + 1) // tile}
        queries += [("pointwise", numel, inner, turns, block) for block in sorted(near) if block <= last]
    for (_, numel, _, _, block), found in zip(queries, answers(*queries), strict=True):
        covered = sorted((i + k, sample) for i, sample, count in found for k in range(count))
        expected = range(block * tile, min((block + 1) * tile, numel))
        assert covered == [(i, i // inner) for i in expected]


@pytest.mark.parametrize(
    ("inner", "team"), [(1, 1), (3, 1), (50, 8), (784, 128), (16384, 256), (16390, 256), (40001, 256)]
)
def test_every_element_of_a_part_once_with_its_sample(answers, inner, team):
    part, units_a_block = min(inner, 16384), 256 // team
    each = -(-inner // part)
    samples = 2**33 // inner + 3  # past 2^32 elements
    units = samples * each
    last = (units - 1) // units_a_block
    queries = [("sums", inner, part, each, team, block, units) for block in (0, 1, last // 2, last) if block <= last]
    for (*_, block, _), found in zip(queries, answers(*queries), strict=True):
        covered = sorted((i + k, sample) for i, sample, count in found for k in range(count))
        expected = []
        for unit in range(block * units_a_block, min((block + 1) * units_a_block, units)):
            sample, number = divmod(unit, each)
            begin = sample * inner + number * part
            expected += [(i, sample) for i in range(begin, min(begin + part, (sample + 1) * inner))]
        assert covered == expected
