"""`mintmark promote` and what belongs to it: keys of approvers, approvals, roll-backs, the list of decisions."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table as Grid

if TYPE_CHECKING:
    from mintmark.approval import Approvers
    from mintmark.decision import PromotionDecision, Thresholds
    from tasks.coordinator import Coordinator
    from tasks.promotion import Outcome

app = typer.Typer()

HomeOption = Annotated[Path, typer.Option(envvar="MINTMARK_COORDINATOR_HOME", help="The coordinator's folder.")]
KeyOption = Annotated[Path, typer.Option(help="Your private key, a file that only you can read.")]


@app.command()
def approver(
    name: Annotated[str, typer.Argument(help="The person's name: lower case, digits, hyphens.")],
    key: Annotated[Path, typer.Option(help="A new file for the private key; it stays with this person.")],
) -> None:
    """Make a person's key, and print the lines that the coordinator puts into approvers.toml."""
    from mintmark.approval import Approver
    from mintmark.envelope import fingerprint, generate_signer, save_signer
    from mintmark.settings import checked

    signer = generate_signer()
    person = checked(Approver, name=name, key=signer.public_key.hex())
    save_signer(signer, key)
    print(f"Made {key}. Read the fingerprint to the coordinator by telephone: {fingerprint(signer.public_key)}")
    print(f'These lines go into approvers.toml:\n\n[[approver]]\nname = "{person.name}"\nkey = "{person.key}"')


@app.command()
def approve(
    campaign: Annotated[str, typer.Argument(help="The campaign whose model you have looked at.")],
    key: KeyOption,
    reason: Annotated[str, typer.Option(help="Why, in a line; it is kept with the decision.")],
    home: HomeOption,
    reject: Annotated[bool, typer.Option("--reject", help="Say no: one no is enough to refuse.")] = False,
    rollback: Annotated[bool, typer.Option("--rollback", help="This model is to come back as champion.")] = False,
    resolved: Annotated[
        list[str] | None, typer.Option(help="A bank whose alarm you have looked into; may be repeated.")
    ] = None,
) -> None:
    """Sign what you say to just this model and evaluation, in place of the champion in force."""
    from mintmark.approval import Action, Verdict
    from mintmark.envelope import load_signer
    from tasks.approvals import say
    from tasks.promotion import question_on

    signer = load_signer(f"file:{key}")
    coordinator, approvers, _ = _opened(home)
    question = question_on(coordinator, campaign, Action.ROLLBACK if rollback else Action.PROMOTE)
    verdict, now = Verdict.REJECT if reject else Verdict.APPROVE, datetime.now(UTC)
    counted = say(coordinator.store, approvers, signer, question, verdict, reason, now, tuple(resolved or ()))
    print(
        f"{counted.said.approver} said {counted.said.verdict} to {question.action} {campaign}: "
        f"model {question.model[:12]}, evaluation {question.evaluation[:12]}, after champion {question.replaces}."
    )


@app.command()
def promote(
    campaign: Annotated[str, typer.Argument(help="The campaign whose model is to become champion.")], home: HomeOption
) -> None:
    """Put a challenger before the gate; record the decision; publish the champion. Exit code 1 when it is refused."""
    from tasks.promotion import promote as put_before_the_gate

    coordinator, approvers, limits = _opened(home)
    _tell(coordinator, put_before_the_gate(coordinator, campaign, limits, approvers, datetime.now(UTC)))


@app.command()
def rollback(
    reason: Annotated[str, typer.Option(help="Why, in a line; it is kept with the decision.")],
    home: HomeOption,
    to: Annotated[
        int | None, typer.Option(min=1, help="The champion's number; the one before of another model unless given.")
    ] = None,
) -> None:
    """Make an earlier champion the next one. Two people approve it first: mintmark approve CAMPAIGN --rollback."""
    from tasks.promotion import rollback as go_back

    coordinator, approvers, limits = _opened(home)
    _tell(coordinator, go_back(coordinator, to, reason, limits, approvers, datetime.now(UTC)))


@app.command()
def decisions(home: HomeOption) -> None:
    """List every decision ever made, refusals too; verifies that none is missing."""
    from tasks.promotion import read_decisions

    grid = Grid(title="Decisions")
    for heading in ("", "when", "what", "campaign", "model", "approved by", "outcome"):
        grid.add_column(heading, overflow="fold")
    for one in read_decisions(_open(home)):
        people = ", ".join(counted.said.approver for counted in one.approvals if counted.said.verdict == "approve")
        outcome = f"champion {one.champion}" if one.passed else f"refused: {', '.join(one.failed)}"
        when, asked = f"{one.decided_at:%Y-%m-%d %H:%M}", one.question
        grid.add_row(str(one.number), when, asked.action, asked.campaign, asked.model[:12], people, outcome)
    Console().print(grid)


@app.command()
def evidence(
    home: HomeOption,
    model: Annotated[
        str | None, typer.Argument(metavar="CAMPAIGN_OR_MODEL", help="A campaign, or its model's digest.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder for the page and its JSON.")] = Path(),
    verify: Annotated[
        Path | None, typer.Option(help="A pack's JSON: check every figure of it against the mailbox.")
    ] = None,
) -> None:
    """Write a model's evidence pack for a risk committee, one HTML page and its JSON; or check one."""
    if (model is None) == (verify is None):
        raise typer.BadParameter("expected a campaign, or a file to --verify: one of the two")
    if verify is not None:
        _verify(_open(home), verify)
        return
    from mintmark.canonical import canonical_json
    from mintmark.settings import read_toml
    from tasks.evidence import ModelCard, campaign_of, gather
    from tasks.evidence_page import render

    card, coordinator = read_toml(home / "model_card.toml", ModelCard), _open(home)
    campaign = campaign_of(coordinator, str(model))
    pack = gather(coordinator, campaign, card, datetime.now(UTC))
    out.mkdir(parents=True, exist_ok=True)
    page, data = out / f"{campaign}.evidence.html", out / f"{campaign}.evidence.json"
    page.write_text(render(pack), encoding="utf-8")
    data.write_bytes(canonical_json(pack))
    print(f"Wrote {page} and {data}, from {len(pack['records'])} signed records.")


def _verify(coordinator: Coordinator, file: Path) -> None:
    """Print what is wrong; exit code 1 when something is."""
    from mintmark.canonical import read_canonical
    from tasks.evidence import MAX_PACK_BYTES, check

    with file.open("rb") as opened:
        raw = opened.read(MAX_PACK_BYTES + 1)
    count, problems = check(coordinator, read_canonical(raw, what=file.name, max_bytes=MAX_PACK_BYTES))
    for problem in problems:
        print("".join(letter if letter.isprintable() else "?" for letter in problem[:300]))
    if problems:
        print(f"{file}: {len(problems)} problems in {count} figures. Do not rely on it.")
        raise typer.Exit(1)
    print(f"{file}: all {count} figures are what the signed records say.")


def _opened(home: Path) -> tuple[Coordinator, Approvers, Thresholds]:
    """The coordinator's things. Raises `DataError` for a list or thresholds that are missing or malformed."""
    from mintmark.approval import Approvers
    from mintmark.decision import Thresholds
    from mintmark.settings import read_toml

    approvers, limits = read_toml(home / "approvers.toml", Approvers), read_toml(home / "promotion.toml", Thresholds)
    return _open(home), approvers, limits


def _open(home: Path) -> Coordinator:
    from tasks.coordinator import open_coordinator

    return open_coordinator(home)


def _tell(coordinator: Coordinator, outcome: Outcome) -> None:
    """Print the decision and set the alias; exit code 1 for a refusal."""
    from tasks.alias import set_alias

    decision, console = outcome.decision, Console()
    console.print(_grid(decision))
    console.print(decision.comparability, highlight=False, markup=False)
    recorded = f"Decision {decision.number}" + ("" if outcome.new else ", recorded before")
    if outcome.champion is None:
        console.print(f"{recorded}: refused, because of {', '.join(decision.failed)}.", highlight=False, markup=False)
        raise typer.Exit(1)
    champion = outcome.champion
    console.print(
        f"{recorded}: {champion.campaign} is champion {champion.number}, in the mailbox for every bank.",
        highlight=False,
        markup=False,
    )
    console.print(set_alias(coordinator, champion), highlight=False, markup=False)


def _grid(decision: PromotionDecision) -> Grid:
    from rich.text import Text

    grid = Grid(title=f"{decision.question.action} {decision.question.campaign}")
    for heading in ("check", "expected", "got", ""):
        grid.add_column(heading, overflow="fold")
    for check in decision.checks:
        verdict = Text("passed", "green") if check.passed else Text("failed", "bold red")
        grid.add_row(Text(check.name), Text(check.expected), Text(check.got), verdict)
    return grid
