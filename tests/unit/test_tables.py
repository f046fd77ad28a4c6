"""Tables of the docs come from CSV files, and are what these say now."""

import make_tables
import pytest
from conftest import ROOT

from paddleseg_semi.errors import InputError

PAGE = 'before\n\n<!-- table: scores -->\nold\n<!-- end -->\n\nafter <!-- end -->\n'


@pytest.fixture
def page(tmp_path):
    """A page with the table of scores.csv, made anew."""
    def make(csv, page=PAGE):
        (tmp_path / 'scores.csv').write_text(csv)
        return make_tables.with_tables(page, 'page.md', str(tmp_path))
    return make


def test_columns_become_columns(page):
    text = page('Method,1/8,Notes,Source\nU2PL,70.1 / 70.2,,"paper, table 2"\nCPS,,,log\n')
    assert text == PAGE.replace('old\n', '| Method | 1/8 | Source |\n| --- | ---: | --- |\n'
                                           '| U2PL | 70.1 / 70.2 | paper, table 2 |\n| CPS |  | log |\n')
    assert page('Method,1/8,Notes,Source\nU2PL,70.1 / 70.2,,"paper, table 2"\nCPS,,,log\n', text) == text


def test_rows_of_one_method(page):
    text = page('Method,1/8,1/4\nUniMatch,1,\nUniMatch: labeled only,2,\nUniMatchV2,3,4\n',
                PAGE.replace('scores', 'scores UniMatch'))
    assert '| Method | 1/8 |\n| --- | ---: |\n| UniMatch | 1 |\n| UniMatch: labeled only | 2 |\n<!-- end' in text


@pytest.mark.parametrize('csv, page_text, message', [
    ('a,b\n1,2,3\n', PAGE, r'scores.csv:2: 3 columns, but the first line has 2'),
    ('', PAGE, 'scores.csv: no such table, or an empty one'),
    ('a\n1\n', PAGE.replace('scores', 'other'), 'other.csv: no such table'),
    ('a\n1\n', PAGE.replace('scores', 'scores CPS'), 'no row begins with "CPS"'),
    ('a\n1\n', '<!-- table: scores -->\n', 'page.md: .* without its "<!-- end -->"'),
])
def test_refused(page, csv, page_text, message):
    with pytest.raises(InputError, match=message):
        page(csv, page_text)


def test_tool_writes_what_changed(tmp_path, capsys):
    path = tmp_path / 'page.md'
    path.write_text('<!-- table: lists -->\n<!-- end -->\n')
    for said in (f'{path}: written\n', ''):
        make_tables.main(make_tables.parser.parse_args([str(path)]))
        assert capsys.readouterr().out == said
    assert path.read_text().startswith('<!-- table: lists -->\n| Data |')


@pytest.mark.parametrize('path', make_tables.pages(), ids=lambda path: path[len(str(ROOT)) + 1:])
def test_pages_are_up_to_date(path):
    with open(path, encoding='utf-8') as file:
        text = file.read()
    assert make_tables.with_tables(text, path) == text, 'run python tools/make_tables.py'
