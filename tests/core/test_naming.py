"""Output names: whatever an input is called, its output's name is plain, short, and its own."""

import re

from hypothesis import assume, example, given
from hypothesis import strategies as st

from keepupd.core.naming import DEFAULT_TEMPLATE, PLAIN_STEM, could_meet, output_name

PLAIN = re.compile(r"[A-Za-z0-9_+][A-Za-z0-9._+-]{0,198}")
HASH = re.compile(r"-[0-9a-f]{16}")
any_name = st.text(max_size=320) | st.from_regex(r"[a-z_.e0-9-]{1,12}(\.root|\.hdf5)?", fullmatch=True)
templates = st.sampled_from(
    [DEFAULT_TEMPLATE, "x.{stem}.{label}.{campaign}{edition}.root", "{stem}-{campaign}{edition}_{label}"]
)


def name_of(input_name, edition=1, template=DEFAULT_TEMPLATE, campaign="dune_reco", label="output"):
    return output_name(template, campaign, label, input_name, edition)


def test_a_plain_name_stays_readable():
    assert name_of("np04_run1_0001.root") == "np04_run1_0001_dune_reco.root"
    assert name_of("np04_run1_0001.root", 2) == "np04_run1_0001_dune_reco_e2.root"
    assert name_of("np04_run1_0001.root", 12) == "np04_run1_0001_dune_reco_e12.root"


def test_an_input_without_an_ending_gets_none():
    assert name_of("raw0001") == "raw0001_dune_reco"


def test_a_template_with_its_own_ending_keeps_the_inputs_apart():
    own_ending = "{stem}_{campaign}{edition}.root"
    assert name_of("a.hdf5", template=own_ending) == "a.hdf5_dune_reco.root"
    assert name_of("a.hdf5", template=own_ending) != name_of("a.root", template=own_ending)


def test_strange_names_are_cleaned_and_marked():
    for strange in [
        "../../etc/passwd",
        "a b.root",
        "a'\".root",
        "100%.root",
        "a\nb.root",
        "fünf.root",
        "-rf.root",
        ".root",
        "",
    ]:
        name = name_of(strange)
        assert PLAIN.fullmatch(name) and HASH.search(name), (strange, name)


def test_digits_alone_are_no_trouble_since_the_campaign_is_in_the_name():
    assert name_of("1234567") == "1234567_dune_reco"


def test_a_long_name_is_cut_alike_in_every_edition():
    long = "x" * 300 + ".root"
    first, later = name_of(long), name_of(long, 999)
    assert len(first) < 200 and len(later) < 200
    assert later == first.replace(".root", "_e999.root")


def test_names_that_a_cut_would_make_equal_stay_apart():
    assert name_of("x" * 300 + "1.root") != name_of("x" * 300 + "2.root")


def test_nobody_can_take_the_marked_name_of_another_input():
    marked = name_of("a b.root").removesuffix("_dune_reco.root")
    assert name_of(marked + ".root") != name_of("a b.root")


@given(any_name, st.integers(1, 999_999), templates, st.sampled_from(["abc", "c" * 80]))
@example("\ud800", 1, DEFAULT_TEMPLATE, "abc")
@example("a.root\n", 1, DEFAULT_TEMPLATE, "abc")
def test_every_name_is_plain_and_short(name, edition, template, campaign):
    assert PLAIN.fullmatch(name_of(name, edition, template, campaign, "l" * 20))


@given(any_name, any_name, st.integers(1, 20), st.integers(1, 20), templates)
@example("a_e2_dune_reco.root", "a.root", 1, 2, DEFAULT_TEMPLATE)
@example("a.root", "a", 1, 1, DEFAULT_TEMPLATE)
def test_two_inputs_never_share_a_name(one, other, edition, other_edition, template):
    assume((one, edition) != (other, other_edition))
    assert name_of(one, edition, template) != name_of(other, other_edition, template)


@given(st.text("ab_", min_size=1, max_size=4), st.text("ab_", min_size=1, max_size=4), templates, templates)
def test_campaigns_that_cannot_meet_never_do(end, other_end, template, other_template):
    campaigns = f"c{end}", f"c{other_end}"
    assume(not could_meet((template, campaigns[0], "one"), (other_template, campaigns[1], "two")))
    stems = [f"{stem}{suffix}" for stem in ("a", "b", "a_b", "x.a", f"a_{campaigns[0]}") for suffix in ("", ".root")]
    ours = {output_name(template, campaigns[0], "one", stem, 1) for stem in stems}
    assert ours.isdisjoint(output_name(other_template, campaigns[1], "two", stem, 1) for stem in stems)


def test_a_campaign_whose_name_ends_like_another_could_meet_it():
    assert could_meet((DEFAULT_TEMPLATE, "reco", "output"), (DEFAULT_TEMPLATE, "dc15_reco", "output"))
    assert name_of("f_dc15.root", campaign="reco") == name_of("f.root", campaign="dc15_reco")
    assert not could_meet((DEFAULT_TEMPLATE, "reco_a", "output"), (DEFAULT_TEMPLATE, "reco_b", "output"))


def test_what_is_plain_may_not_look_like_our_mark():
    assert PLAIN_STEM.fullmatch("run1-0123456789abcde") and not PLAIN_STEM.fullmatch("run1-0123456789abcdef")
