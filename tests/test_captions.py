"""Captions of the public pre-training sets, in hand-made files of their exact layouts, and what is left out of them."""

import json
import os
import pickle
import re
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest

import fixtures
from uniter.captions import Choice, public_captions
from uniter.exclusion import Excluded, Rule, addresses_in
from uniter.pretraining import Captioned, read_source
from uniter.recipe import parse_recipe
from uniter.tasks.reading import trailing_number

TRAIN = Choice()
FLICKR = {number: 2_970_773_000 + number for number in range(1, 9)}  # COCO's number -> that at Flickr


def coco_files(folder: Path) -> None:
    """COCO's captions of 2014: images 1 to 4 in train, 5 to 8 in val, two captions each; one is blank."""
    for split, numbers in (("train", range(1, 5)), ("val", range(5, 9))):
        images = [
            {
                "license": 5,
                "file_name": fixtures.coco_name(split, number),
                "coco_url": f"http://images.cocodataset.org/{split}2014/{fixtures.coco_name(split, number)}",
                "height": 480,
                "width": 640,
                "date_captured": "2013-11-14 16:28:13",
                "flickr_url": f"http://farm4.staticflickr.com/3153/{FLICKR[number]}_164f0c0b83_z.jpg",
                "id": number,
            }
            for number in numbers
        ]
        captions = [
            {"image_id": number, "id": 10 * number + k, "caption": f"a {'big' if k else 'small'} dog {number}."}
            for k in range(2)
            for number in numbers
        ]
        captions[-1]["caption"] = " \n"
        content = {"info": {}, "images": images, "licenses": [], "annotations": captions}
        fixtures.write(folder / f"captions_{split}2014.json", content)


def karpathy_file(folder: Path) -> None:
    """dataset_coco.json: 1 to 4 train, 5 and 6 restval, 7 val, 8 test."""
    images = []
    for number in range(1, 9):
        subset = "train" if number < 5 else "val"
        sentence = {"raw": f"One dog {number}.", "tokens": ["one"], "imgid": number - 1, "sentid": number}
        record = {"filepath": f"{subset}2014", "filename": fixtures.coco_name(subset, number), "cocoid": number}
        split = "train" if number < 5 else "restval" if number < 7 else "val" if number == 7 else "test"
        images.append(record | {"imgid": number - 1, "split": split, "sentids": [number], "sentences": [sentence]})
    fixtures.write(folder / "dataset_coco.json", {"images": images, "dataset": "coco"})


def flickr_file(folder: Path) -> None:
    """dataset_flickr30k.json: the photographs that COCO calls 2 and 6, and one of its own."""
    names = [(FLICKR[2], "train"), (FLICKR[6], "test"), (1000092795, "val")]
    images = [
        {"filename": f"{number}.jpg", "imgid": k, "split": split, "sentids": [], "sentences": []}
        for k, (number, split) in enumerate(names)
    ]
    fixtures.write(folder / "dataset_flickr30k.json", {"images": images, "dataset": "flickr30k"})


def genome_files(folder: Path) -> None:
    """Visual Genome: image 11 is COCO's 1, 12 is 3, 17 is 7, 18 is 8; 20 is of Flickr alone, the photograph of COCO's 2."""
    coco = {11: 1, 12: 3, 17: 7, 18: 8, 20: None, 21: None}
    about, regions = [], []
    for number, other in coco.items():
        flickr = FLICKR[2] if number == 20 else FLICKR[other] if other else None
        url = f"https://cs.stanford.edu/people/rak248/VG_100K_2/{number}.jpg"
        about.append(
            {"image_id": number, "url": url, "width": 800, "height": 600, "coco_id": other, "flickr_id": flickr}
        )
        phrases = [f"a red cat {number}", "" if number == 21 else "grass"]
        regions.append(
            {
                "id": number,
                "regions": [
                    {"region_id": 100 * number + k, "image_id": number, "phrase": phrase}
                    | {"x": 1, "y": 2, "width": 30, "height": 40}
                    for k, phrase in enumerate(phrases)
                ],
            }
        )
    fixtures.write(folder / "image_data.json", about)
    fixtures.write(folder / "region_descriptions.json", regions)


def refs_file(folder: Path) -> None:
    """refs(unc).p: COCO's image 1 in train, 3 in val and 4 in testA."""
    refs = [
        {"ref_id": k, "ann_id": k, "image_id": number, "split": split, "sentences": [], "sent_ids": []}
        for k, (number, split) in enumerate([(1, "train"), (3, "val"), (3, "val"), (4, "testA")])
    ]
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))


CC = [
    ("a man on a boat", "http://x.org/a.jpg"),
    ("two dogs", "https://farm1.staticflickr.com/2/77_ab_z.jpg"),
    ("grass", "http://y/z"),
]


def conceptual_file(folder: Path, name: str = "Train_GCC-training.tsv") -> Path:
    (folder / name).write_text("".join(f"{text}\t{address}\n" for text, address in CC), encoding="utf-8")
    return folder / name


SBU = {
    "image_urls": [f"http://static.flickr.com/2723/{FLICKR[n]}_b0f291553e.jpg" for n in (3, 5)]
    + ["http://static.flickr.com/4/4385058960_b0f.jpg"],
    "user_ids": ["47889917@N08", "0", "1"],
    "captions": ["my dog in the grass", "a cat, quite small", "the boat"],
}


@pytest.fixture
def folder(tmp_path):
    for make in (coco_files, karpathy_file, flickr_file, genome_files, refs_file, conceptual_file):
        make(tmp_path)
    fixtures.write(tmp_path / "sbu-captions-all.json", SBU)
    (tmp_path / "SBU_captioned_photo_dataset_captions.txt").write_text("\n".join(SBU["captions"]) + "\n")
    (tmp_path / "SBU_captioned_photo_dataset_urls.txt").write_text("\r\n".join(SBU["image_urls"]) + "\r\n")
    return tmp_path


def numbers_of(captions):
    """The number at the end of each caption's text."""
    return [int(caption.text.strip(".").split()[-1]) for caption in captions]


def excluding(folder, *names, **settings):
    return Choice(exclude=tuple(Excluded(folder / name) for name in names), **settings)


def images(folder, name, choice=TRAIN, stored=None):
    return [caption.image for caption in public_captions(folder / name, choice, stored)]


# ---------------------------------------------------------------- reading


def test_cocos_own_captions_in_the_files_order(folder):
    captions = public_captions(folder / "captions_train2014.json", Choice())
    assert numbers_of(captions) == [1, 2, 3, 4, 1, 2, 3]  # a blank one is none
    assert captions[0].image == "COCO_train2014_000000000001.jpg" and captions[0].text == "a small dog 1."
    stored = dict.fromkeys(f"coco_train2014_{number:012}.npz" for number in range(1, 5))
    assert images(folder, "captions_train2014.json", Choice(), stored)[3] == "coco_train2014_000000000004.npz"


def test_karpathy_parts_what_has_no_splits(folder):
    splits = folder / "dataset_coco.json"
    part = lambda name, split: numbers_of(public_captions(folder / name, Choice(split, splits)))
    assert part("captions_val2014.json", "train") == part("captions_val2014.json", "train+restval") == [5, 6, 5, 6]
    assert part("captions_val2014.json", "restval") == [5, 6, 5, 6] and part("captions_val2014.json", "test") == [8]
    assert part("captions_val2014.json", "val") == [7, 7]
    genome = lambda split: images(folder, "region_descriptions.json", Choice(split, splits))
    name = "vg_{:012}.npz".format
    assert genome("val") == [name(17)] * 2 and genome("test") == [name(18)] * 2
    assert genome("train") == [name(n) for n in (11, 11, 12, 12, 20, 20, 21)]  # a blank phrase is none
    assert numbers_of(public_captions(splits, Choice("train+restval"))) == [1, 2, 3, 4, 5, 6]


def test_visual_genome_is_found_under_its_names_and_never_under_cocos(folder):
    stored = dict.fromkeys(
        ["VG_100K/11.jpg", "vg_000000000012.npz", "coco_train2014_000000000017.npz", "000000000018.jpg"]
    )
    found = dict.fromkeys(images(folder, "region_descriptions.json", Choice(), stored))
    assert list(found)[:4] == ["VG_100K/11.jpg", "vg_000000000012.npz", "vg_000000000017.npz", "vg_000000000018.npz"]
    (folder / "image_data.json").unlink()  # is wanted only where numbers are
    assert len(images(folder, "region_descriptions.json")) == 11
    with pytest.raises(ValueError, match=r"image_data\.json: no such file, which says"):
        images(folder, "region_descriptions.json", Choice(splits=folder / "dataset_coco.json"))


@pytest.mark.parametrize("heading", ["", "caption\turl\n"])
def test_conceptual_captions_go_by_row_by_row_and_checksum_or_by_a_file(folder, heading):
    path = folder / "Train_GCC-training.tsv"
    path.write_text(heading + path.read_text())
    texts = [caption.text for caption in public_captions(path, Choice())]
    assert texts == [text for text, _ in CC] and images(folder, path.name)[2] == "gcc_train_000000000002.npz"
    checksum = zlib.crc32(CC[1][1].encode())
    stored = dict.fromkeys(["00000/000000000.jpg", f"training/1_{checksum}", "gcc_train_000000000002.npz"])
    assert images(folder, path.name, Choice(), stored) == list(stored)
    others = dict.fromkeys(["gcc_val_000000000000.npz", "coco_train2014_000000000001.npz", f"training/2_{checksum}"])
    assert images(folder, path.name, Choice(), others) == [f"gcc_train_{row:012}.npz" for row in range(3)]
    (folder / "names.tsv").write_text(f"{CC[2][1]}\tgrass.jpg\n{CC[0][1]}\tboat.jpg\n")
    (folder / "names.json").write_text(json.dumps({CC[2][1]: "grass.jpg", CC[0][1]: "boat.jpg"}))
    for names in ("names.tsv", "names.json"):
        found = images(folder, path.name, Choice(pictures=folder / names))
        assert found == ["boat.jpg", "gcc_train_000000000001.npz", "grass.jpg"]
    conceptual_file(folder, "Validation_GCC-1.1.0-Validation.tsv")
    assert images(folder, "Validation_GCC-1.1.0-Validation.tsv")[0] == "gcc_val_000000000000.npz"


@pytest.mark.parametrize("name", ["sbu-captions-all.json", "SBU_captioned_photo_dataset_captions.txt"])
def test_sbu_goes_by_address_by_flickrs_number_or_by_row(folder, name):
    captions = public_captions(folder / name, Choice())
    assert [caption.text for caption in captions] == SBU["captions"]
    files = [address.rsplit("/", 1)[1] for address in SBU["image_urls"]]
    assert [caption.image for caption in captions] == files
    assert [caption.numbers.flickr for caption in captions] == [FLICKR[3], FLICKR[5], 4385058960]
    stored = dict.fromkeys([files[0], f"sbu_images/2723_{files[1]}", "sbu_4385058960_b0f_4_4385058960.npz"])
    assert images(folder, name, Choice(), stored) == list(stored)
    rows = dict.fromkeys(f"00000/{row:09}.jpg" for row in range(3))
    assert images(folder, name, Choice(), rows) == list(rows)


# ---------------------------------------------------------------- leaving out


def test_pictures_that_benchmarks_measure_on_are_left_out_and_counted(folder, caplog):
    choice = excluding(folder, "refs(unc).p", "dataset_flickr30k.json", "dataset_coco.json")
    assert numbers_of(public_captions(folder / "captions_train2014.json", choice)) == [1, 1]
    said = [record.getMessage().replace(f"{folder}{os.sep}", "") for record in caplog.records]
    assert said == [
        "captions_train2014.json, split train: refs(unc).p leaves out 2 pictures, 3 captions",
        "captions_train2014.json, split train: dataset_flickr30k.json leaves out 1 pictures, 2 captions",
        "captions_train2014.json, split train: dataset_coco.json leaves out 0 pictures, 0 captions",
    ]
    by_karpathy = public_captions(folder / "captions_val2014.json", excluding(folder, "dataset_coco.json"))
    assert numbers_of(by_karpathy) == [5, 6, 5, 6]


def test_visual_genome_leaves_out_by_both_numbers(folder):
    choice = excluding(folder, "refs(unc).p", "dataset_flickr30k.json", splits=folder / "dataset_coco.json")
    found = images(folder, "region_descriptions.json", choice)
    assert list(dict.fromkeys(found)) == [
        "vg_000000000011.npz",
        "vg_000000000021.npz",
    ]  # 12 is a val image, 20 at Flickr


def test_sbu_leaves_out_by_flickrs_number_once_it_is_known(folder):
    choice = excluding(folder, "refs(unc).p")
    with pytest.raises(
        ValueError,
        match=r"refs\(unc\)\.p cannot be held against.*has COCO numbers, they have Flickr numbers.*`addresses`",
    ):
        images(folder, "sbu-captions-all.json", choice)
    addresses = tuple(folder / f"captions_{part}2014.json" for part in ("train", "val"))
    known = excluding(folder, "refs(unc).p", addresses=addresses)
    assert [c.text for c in public_captions(folder / "sbu-captions-all.json", known)] == SBU["captions"][1:]
    with pytest.raises(
        ValueError, match=r"dataset_flickr30k\.json cannot be held against.*has Flickr numbers, they have COCO"
    ):
        public_captions(folder / "dataset_coco.json", excluding(folder, "dataset_flickr30k.json"))
    choice = excluding(folder, "dataset_flickr30k.json", addresses=addresses)
    assert numbers_of(public_captions(folder / "dataset_coco.json", choice)) == [1, 3, 4]
    assert addresses_in(addresses[0]) == {number: FLICKR[number] for number in range(1, 5)}


def test_conceptual_captions_have_flickrs_numbers_where_they_are_from_flickr(folder):
    fixtures.write(folder / "dataset_flickr8k.json", {"images": [{"filename": "77_0ab.jpg", "split": "train"}]})
    found = public_captions(folder / "Train_GCC-training.tsv", excluding(folder, "dataset_flickr8k.json"))
    assert [caption.text for caption in found] == [CC[0][0], CC[2][0]]


def test_what_each_benchmarks_file_excludes(folder):
    read = lambda name, splits=None: Rule.read(Excluded(folder / name, splits), {})
    assert read("refs(unc).p").coco == {3, 4} and read("refs(unc).p", "testA").coco == {4}
    assert read("dataset_coco.json").coco == {7, 8} and read("dataset_coco.json", "test").coco == {8}
    assert read("dataset_flickr30k.json").flickr == {FLICKR[2], FLICKR[6], 1000092795}
    assert read("dataset_flickr30k.json", "val+test").flickr == {FLICKR[6], 1000092795}
    fixtures.write(folder / "v2_OpenEnded_x_questions.json", {"questions": [{"image_id": 5, "question_id": 1}]})
    assert read("v2_OpenEnded_x_questions.json").coco == {5}
    fixtures.write_lines(folder / "snli_ve_test.jsonl", [{"Flickr30K_ID": "1000092795"}, {"captionID": "9.jpg#0"}])
    assert read("snli_ve_test.jsonl").flickr == {1000092795, 9}
    assert Rule.read(Excluded(folder / "refs(unc).p"), {3: 30, 4: 40, 1: 10}).flickr == {30, 40}
    with pytest.raises(ValueError, match=r"nothing in split 'testB'; it has testA, train, val"):
        read("refs(unc).p", "testB")
    with pytest.raises(ValueError, match=r"nothing in split 'test'; it has none"):
        read("snli_ve_test.jsonl", "test")


# ---------------------------------------------------------------- what is wrong is named


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("refs(unc).p", pickle.dumps({}), "expected a list of references, got a dict"),
        ("refs(unc).p", pickle.dumps([{"split": "val"}]), "no 'image_id'"),
        (
            "dataset_coco.json",
            b'{"images": [{"split": "val", "filename": "scene_1.png"}]}',
            "names no picture to leave out",
        ),
        ("dataset_coco.json", b'{"images": [], "annotations": []}', "not a benchmark's file of a known layout"),
        ("dataset_coco.json", b"[", "not JSON"),
        ("dataset_coco.json", None, "no such file"),
        ("x.jsonl", None, "no such file"),
        ("x.jsonl", b'{"a": 1}\n', "no 'captionID'"),
    ],
)
def test_a_file_that_excludes_nothing_is_refused(folder, name, content, said):
    (folder / name).unlink(missing_ok=True)
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=said) as caught:
        public_captions(folder / "captions_train2014.json", excluding(folder, name))
    assert str(folder / name) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("captions_train2014.json", None, "no such file; give Karpathy's"),
        ("captions_train2014.json", "{}", "in no known layout"),
        ("captions_train2014.json", '{"annotations": [], "images": []}', "no captions in split 'train'"),
        (
            "captions_train2014.json",
            '{"annotations": [{"image_id": 7, "caption": "x"}], "images": []}',
            "image 7, which",
        ),
        ("captions_train2014.json", '{"annotations": [{"image_id": 7}], "images": []}', "no 'caption'"),
        ("region_descriptions.json", '[{"id": 11}]', "no 'regions'"),
        ("region_descriptions.json", '[{"id": 11, "regions": [{}]}]', "no 'phrase'"),
        ("region_descriptions.json", '[{"id": 11, "regions": []}', "cut off or spoilt"),
        ("region_descriptions.json", "[]", "no captions in split"),
        ("Train_GCC-training.tsv", "one\thttp://x\nno address\n", "line 2: not `caption<TAB>address`"),
        ("Train_GCC-training.tsv", "one\thttp://x\tmore\n", "line 1: not `caption<TAB>address`"),
        ("Train_GCC-training.tsv", b"\xff\xfe\t", "not UTF-8"),
        ("sbu-captions-all.json", '{"image_urls": ["x"], "captions": []}', "0 captions and 1 addresses"),
        ("sbu-captions-all.json", '{"image_urls": ["x"], "captions": [1]}', "or no texts"),
        ("sbu-captions-all.json", '{"image_urls": []}', "no 'captions'"),
        ("SBU_captioned_photo_dataset_urls.txt", "http://x\n", "3 captions and 1 addresses"),
        ("SBU_captioned_photo_dataset_urls.txt", None, "no such file, which has the addresses of"),
    ],
)
def test_a_foreign_or_damaged_file_is_named(folder, name, content, said):
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=said) as caught:
        public_captions(folder / name.replace("_urls", "_captions"), Choice())
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_settings_that_do_not_fit_the_file_are_refused(folder):
    coco, karpathy, genome = (
        folder / n for n in ("captions_train2014.json", "dataset_coco.json", "region_descriptions.json")
    )

    def refuse(path, choice):
        with pytest.raises(ValueError) as caught:
            public_captions(path, choice)
        return str(caught.value)

    assert "has no splits: name Karpathy's dataset_coco.json in `splits`" in refuse(coco, Choice("val"))
    assert "no split 'dev'; it is parted into train, val and test" in refuse(coco, Choice("dev", karpathy))
    assert "nothing in split 'dev'; it has restval" in refuse(karpathy, Choice("dev"))
    assert "has splits of its own: leave `splits` out" in refuse(karpathy, Choice(splits=karpathy))
    assert "names its pictures: leave `pictures` out" in refuse(coco, Choice(pictures=karpathy))
    assert "every caption of split 'test' is excluded" in refuse(
        karpathy, excluding(folder, karpathy.name, split="test")
    )
    assert "is none of COCO" in refuse(genome, Choice(splits=folder / "dataset_flickr30k.json"))
    (folder / "names.tsv").write_text("http://x.org/a.jpg boat.jpg\n")
    wrong = refuse(folder / "Train_GCC-training.tsv", Choice(pictures=folder / "names.tsv"))
    assert "names.tsv, line 1: not `address<TAB>name`" in wrong
    assert "no such file; give `address" in refuse(
        folder / "Train_GCC-training.tsv", Choice(pictures=folder / "no.tsv")
    )
    (folder / "x.txt").write_text("a dog\n")
    assert "a text file that is not called ..._captions.txt" in refuse(folder / "x.txt", Choice())
    fixtures.write(folder / "none.json", {"images": [{"id": 1}], "annotations": []})
    nameless = excluding(folder, "refs(unc).p", addresses=(folder / "none.json",))
    assert "none.json: no image has a `flickr_url`" in refuse(coco, nameless)


# ---------------------------------------------------------------- from a recipe


def source_of(text):
    return parse_recipe(f"kind: pretrain\nsources: [{{{text}}}]").sources[0]


def test_a_recipe_says_what_is_left_out(folder, caplog):
    names = [f"coco_train2014_{number:012}.npz" for number in (1, 3, 4)]
    store = fixtures.write_store(
        folder / "store", {name: fixtures.random_regions(k, 3) for k, name in enumerate(names)}
    )
    start = f"captions: {folder / 'captions_train2014.json'}, regions: {store}"
    plain = f"exclude: [{folder / 'dataset_flickr30k.json'}"
    found = read_source(source_of(f"{start}, {plain}]"), fixtures.processor())
    assert found.images == names and len(found.texts) == 5 and found.image_of.tolist() == [0, 1, 2, 0, 1]
    some = source_of(f"{start}, {plain}, {{file: {folder / 'refs(unc).p'}, splits: testA}}]")
    assert read_source(some, fixtures.processor()).images == names[:2]
    with pytest.raises(ValueError, match=r"1 of the 4 images .* are not in the store.*`missing: skip`"):
        read_source(source_of(start), fixtures.processor())
    caplog.clear()
    skipped = read_source(source_of(f"{start}, missing: skip"), fixtures.processor())
    assert skipped.images == names and "1 pictures, 2 of 7 captions are left out: no regions in" in caplog.text
    assert np.array_equal(skipped.texts[1], found.texts[1])
    elsewhere = f"captions: {folder / 'Train_GCC-training.tsv'}, regions: {store}, missing: skip"
    with pytest.raises(ValueError, match=r"none of its pictures is in .*, the first is 'gcc_train_000000000000.npz'"):
        read_source(source_of(elsewhere), fixtures.processor())


def test_settings_of_public_files_are_refused_for_other_sources(folder):
    record = {"input_ids": [10], "img_fname": "1.jpg"}
    database = fixtures.write_text_database(
        folder / "pretrain_coco_train.db", {"a": record, "b": record | {"img_fname": "2.jpg"}}
    )
    store = fixtures.write_store(folder / "store", {"1.jpg": fixtures.random_regions(0, 3)})
    shared = f"captions: {database}, regions: {store}"
    with pytest.raises(ValueError, match="are for public files; a text database is chosen already"):
        read_source(source_of(f"{shared}, exclude: [{folder / 'refs(unc).p'}]"), fixtures.processor())
    skipped = read_source(source_of(f"{shared}, missing: skip"), fixtures.processor())
    assert isinstance(skipped, Captioned) and skipped.images == ["1.jpg"] and skipped.lengths().tolist() == [3 + 3]
    with pytest.raises(ValueError, match="are for captions, not for sources of kind vcr"):
        read_source(source_of(f"kind: vcr, {shared}, missing: skip"), fixtures.processor())
    for wrong, said in (
        ("{fiel: x}", "did you mean file"),
        ("{file: x, splits: 3}", "valid string, got 3"),
        ("7", "got 7"),
    ):
        with pytest.raises(ValueError, match=rf"sources\.0\.exclude.*{said}"):
            source_of(f"{shared}, exclude: [{wrong}]")


def test_the_recipe_of_the_docs_reads_all_four_sets(folder, tmp_path_factory, monkeypatch):
    page = (Path(__file__).parents[1] / "docs" / "pretraining_data.md").read_text(encoding="utf-8")
    place = tmp_path_factory.mktemp("docs")
    monkeypatch.chdir(place)
    shutil.copytree(folder, "data")
    for benchmark, name in (("refcoco", "refs(unc).p"), ("refcocog", "refs(umd).p")):
        Path("data", benchmark).mkdir()
        shutil.copy(folder / "refs(unc).p", Path("data", benchmark, name))
    recipe = parse_recipe(re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)[0])
    stored: dict[Path, set[str]] = {}
    for source in [*recipe.sources, *recipe.validation]:
        stored.setdefault(source.regions, set()).update(
            images(place, source.captions, Choice(source.split, source.splits))
        )
    for path, names in stored.items():
        kept = sorted(names)[: 2 if path.name in ("cc", "sbu") else None]  # dead addresses
        fixtures.write_store(path, {name: fixtures.random_regions(k, 3) for k, name in enumerate(kept)})
    read = lambda sources, training: {s.name: read_source(s, fixtures.processor(), training) for s in sources}
    sources, validation = read(recipe.sources, True), read(recipe.validation, False)
    trailing = lambda source: [trailing_number(image) for image in source.images]
    assert trailing(sources["coco"]) == [1, 5] and trailing(sources["vg"]) == [11, 21]
    assert len(sources["cc"].texts) == 2 and len(sources["sbu"].texts) == 1
    assert trailing(validation["coco"]) == [7] and trailing(validation["vg"]) == [17]
