"""Say which cause a failure has, and what its policy means for the file. The table is data: `statecharts/causes.yaml`.

A failure goes in, a cause comes out; nothing else decides what a failure means. causes_table.py reads the table.
"""

import math
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from keepupd.core.causes_table import PLACEHOLDERS, POLICY_KEYS, CauseClass, Policy, Rule, parse_rules, read_table
from keepupd.core.model import Failure

__all__ = [
    "Cause",
    "Causes",
    "Consequence",
    "Policy",
    "Rule",
    "load_causes",
    "parse_rules",
    "policy_for",
    "raised_needs",
]

SICK_HOST = "sick_host"  # the cause of what a sick host cost, once it is given back
LONGEST_WORDS = 1000  # characters of a cause in words; the attempt's report has the whole message


# --- judging ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cause:
    """Why an attempt did not succeed: `name` for metrics, `words` for people, `event` for the file chart."""

    name: str
    klass: str
    words: str
    event: str
    policy: Policy
    own_wait: bool = False  # the campaign's own rule says how long to wait


class Causes:
    """The checked table."""

    def __init__(self, classes: Mapping[str, CauseClass], rules: Sequence[Rule]):
        self.classes, self.rules = classes, tuple(rules)

    def judge(self, failure: Failure, own_rules: Sequence[Rule] = ()) -> Cause:
        """The cause of `failure`: of the first rule that matches, the campaign's own first. The last matches all."""
        rule = next(rule for rule in (*own_rules, *self.rules) if not rule.passive and rule.matches(failure))
        words = _in_words(rule.words, failure)
        own_wait = any(rule is own for own in own_rules) and "wait_s" in rule.model_fields_set
        event = rule.event or self.classes[rule.klass].event
        return Cause(rule.name, rule.klass, words, event, self._policy(rule.klass, rule), own_wait)

    def passive(self, failure: Failure, own_rules: Sequence[Rule] = ()) -> list[str]:
        """Names of all passive rules that match: they are counted beside the cause, and change nothing."""
        return [rule.name for rule in (*own_rules, *self.rules) if rule.passive and rule.matches(failure)]

    def counted_as(self, cause: Cause, klass: str) -> Cause:
        """The same cause under the policy of another class: an outage that no second witness confirms is an input."""
        return replace(cause, klass=klass, event=self.classes[klass].event, policy=self._policy(klass))

    def excluding(self, own_rules: Sequence[Rule] = ()) -> dict[str, Policy]:
        """The causes, by name, that speak against the host they struck on; what they cost there can be given back."""
        of_nodes = [rule for rule in (*self.rules, *own_rules) if rule.klass == "node"]
        found = {SICK_HOST: self._policy("node")} | {rule.name: self._policy("node", rule) for rule in of_nodes}
        return {name: policy for name, policy in found.items() if policy.exclude_host_s > 0}

    def _policy(self, klass: str, rule: Rule | None = None) -> Policy:
        of_class = self.classes[klass].model_dump(include=set(POLICY_KEYS))
        of_rule = rule.model_dump(include=rule.model_fields_set & POLICY_KEYS) if rule else {}
        return Policy(**of_class | of_rule)

    def used_up(
        self,
        cause: str,
        tries: int,
        losses: int,
        attempts_limit: int,
        losses_limit: int,
        own_rules: Sequence[Rule] = (),
    ) -> bool:
        """Whether a file whose last cause was `cause` (a name) has nothing left: time_up's guard is then used_up."""
        rule = next((rule for rule in (*own_rules, *self.rules) if rule.name == cause), None)
        policy = self._policy(rule.klass, rule) if rule else Policy()
        return _used_up(policy, tries, losses, attempts_limit, losses_limit)


def _in_words(words: str, failure: Failure) -> str:
    """Fill the placeholders; what is not known says so, and nothing unprintable reaches a terminal."""
    known = _known(failure)
    values = {key: "unknown" if (value := getattr(failure, key, None)) in (None, "") else value for key in PLACEHOLDERS}
    values |= {"known": known, "message": failure.message if failure.message.strip() else known}
    values |= {"signal": _signal_name(failure.signal), "host": failure.host or "an unnamed host"}
    line = " ".join(words.format_map(values).split())
    return "".join(c if c.isprintable() else "?" for c in line)[:LONGEST_WORDS]


def _known(failure: Failure) -> str:
    facts = {
        "step": failure.step or "not reported",
        "fault": failure.fault,
        "exit code": failure.exit_code,
        "signal": None if failure.signal is None else _signal_name(failure.signal),
        "hold code": failure.hold_code,
        "host": failure.host or "not reported",
        "message": failure.message,
    }
    return ", ".join(f"{key} {value}" for key, value in facts.items() if value not in (None, ""))


def _signal_name(number: int | None) -> str:
    try:
        return f"{number} ({signal.Signals(number or 0).name})"
    except ValueError:
        return "unknown" if number is None else str(number)


def load_causes(path: Path, events: frozenset[str]) -> Causes:
    """Read and check the table; `events` are the file chart's. Raises CausesError with every fault and its line."""
    return Causes(*read_table(path, events))


# --- policy -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Consequence:
    """What a cause means for the counters of its file, and when it is due again."""

    wait: timedelta | None  # None: no due time
    tries: int
    losses: int
    used_up: bool


def policy_for(
    cause: Cause,
    tries: int,
    losses: int,
    attempts_limit: int,
    losses_limit: int = 10,
    retry_wait_s: float | None = None,
    repeats: int | None = None,
    capped: bool = False,
) -> Consequence:
    """What one more `cause` means for a file with these `tries` and `losses`.

    retry_wait_s: the campaign's own wait, for causes that use up tries (its own rules' wait_s goes before it).
    repeats: how often this cause has struck the file already, for back-off; by default what the counters say.
    capped: raised_needs() could raise no more, so a try is used up. Once used up, there is nothing to wait for.
    """
    policy = cause.policy
    uses = "tries" if capped else policy.uses
    if repeats is None:
        repeats = {"tries": tries, "losses": losses, "nothing": 0}[uses]
    tries, losses = tries + (uses == "tries"), losses + (uses == "losses")
    used_up = uses != "nothing" and _used_up(policy, tries, losses, attempts_limit, losses_limit)
    if policy.wait_s is None:
        return Consequence(None, tries, losses, used_up)
    first = policy.wait_s
    if retry_wait_s is not None and uses == "tries" and not cause.own_wait:
        first = retry_wait_s
    wait = min(first * policy.backoff ** min(repeats, 100), max(first, policy.max_wait_s))
    return Consequence(timedelta(seconds=0 if used_up else wait), tries, losses, used_up)


def _used_up(policy: Policy, tries: int, losses: int, attempts_limit: int, losses_limit: int) -> bool:
    most_tries = policy.limit if policy.limit and policy.uses == "tries" else attempts_limit
    most_losses = policy.limit if policy.limit and policy.uses == "losses" else losses_limit
    return tries >= most_tries or losses >= most_losses


def raised_needs(
    needs: Mapping[str, Any],
    failure: Failure,
    requested: float,
    factor: float,
    cap: float,
    what: str = "memory_mib",
) -> dict[str, Any] | None:
    """`needs` with more of `what` for the next job: `factor` times what was asked, for memory also a quarter above the
    measured peak, at most `cap`. None when the cap was asked for already: more is no use.

    requested is the campaign's own request, cap the most we ever ask, both in the unit that ends the name `what`.
    Source: HTCondor manual, "Job ClassAd Attributes" (RequestMemory is in MiB).
    """
    asked, most = max(needs.get(what, 0), requested), math.floor(cap)
    if asked >= most:
        return None
    peak = (failure.peak_mib or 0) if what == "memory_mib" else 0
    return {**needs, what: min(most, max(math.ceil(asked * factor), math.ceil(peak * 1.25)))}
