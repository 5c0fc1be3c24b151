"""CSV files as spreadsheets, pandas and R write them."""

import zipfile
from pathlib import Path

import pytest

from mammovae.config import InputError
from mammovae.data.sources.csv_rows import CsvRow, CsvTable, read_csv
from mammovae.imageio.raw_tree import RawTree


def rows_of(root: Path, content: bytes) -> list[CsvRow]:
    (root / "t.csv").write_bytes(content)
    return read_csv(RawTree.scan(root), "t.csv", ("name", "age"))


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_separators_line_ends_and_a_byte_order_mark_do_not_matter(
    tmp_path: Path, separator: str, start: str, end: str
) -> None:
    lines = [separator.join(cells) for cells in (("Name", "age"), ("a b", "61"), ("c", ""))]
    rows = rows_of(tmp_path, (start + end.join(lines) + end).encode())
    assert [(row.text("name"), row.number("age")) for row in rows] == [("a b", 61), ("c", None)]


@pytest.mark.parametrize("code", ["utf-16", "utf-16-le", "utf-16-be"])
def test_unicode_text_of_a_spreadsheet_is_read(tmp_path: Path, code: str) -> None:
    start = "" if code == "utf-16" else "\ufeff"
    (row,) = rows_of(tmp_path, f"{start}name\tage\r\nM\u00fcller\t50\r\n".encode(code))
    assert (row.text("name"), row.number("age")) == ("M\u00fcller", 50)


def test_the_line_in_which_a_spreadsheet_states_the_separator_is_no_header(tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path, b"sep=;\r\nname;age\r\na;5\r\n")
    assert row.text("name") == "a"


def test_another_code_than_utf_8_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"t.csv: line 3 is no UTF-8, save it as a CSV file in UTF-8"):
        rows_of(tmp_path, b"name,age\na,1\nM\xfcller,2\n")


@pytest.mark.parametrize(("text", "number"), [("61,5", 61.5), ("61.5", 61.5), ("-3,25", -3.25), ("4,0", 4.0)])
def test_a_comma_is_a_decimal_point_where_it_separates_no_cells(tmp_path: Path, text: str, number: float) -> None:
    (row,) = rows_of(tmp_path, f"name;age\na;{text}\n".encode())
    assert row.number("age") == number


@pytest.mark.parametrize(("separator", "text"), [(",", '"61,5"'), (";", "1.024,5"), (";", "1,024,5"), (";", "inf")])
def test_a_number_that_may_be_meant_in_two_ways_is_refused(tmp_path: Path, separator: str, text: str) -> None:
    (row,) = rows_of(tmp_path, f"name{separator}age\na{separator}{text}\n".encode())
    with pytest.raises(InputError, match=r"row 2: age is .* where a number belongs"):
        row.number("age")


def test_a_table_without_separators_says_so_where_columns_lack(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="lacks the columns name, age: it has one alone, 'name age'"):
        rows_of(tmp_path, b"name age\na 1\n")


def test_separators_inside_quotes_are_text(tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path, b'"name","age"\n"a;b;c\td",5\n')
    assert row.text("name") == "a;b;c\td"


def test_a_table_in_a_zip_archive_is_read_in_place_and_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("set/t.csv", "name;age\na;5\n")
        archive.writestr("set/bad.csv", b"name\n\xff\n")
    tree = RawTree.scan(tmp_path / "set.zip")
    assert [row.place for row in read_csv(tree, "t.csv")] == [f"{tmp_path}/set.zip/set/t.csv, row 2"]
    with pytest.raises(InputError, match=r"set.zip/set/bad.csv: line 2 is no UTF-8"):
        read_csv(tree, "bad.csv")


def test_an_empty_table_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"\n\n", b",,\n"):
        (tmp_path / "t.csv").write_bytes(content)
        with pytest.raises(InputError, match="empty"):
            CsvTable.open(RawTree.scan(tmp_path), "t.csv")


@pytest.mark.parametrize("word", ["nan", "None", "NULL", "NA", "n/a", ""])
def test_words_for_no_value_are_no_value(tmp_path: Path, word: str) -> None:
    row = CsvRow("t.csv, row 2", {"a": word})
    assert (
        row.number("a") is row.birads("a") is row.flag("a") is row.one_of("a", {"x": 1}) is row.categories("a") is None
    )
