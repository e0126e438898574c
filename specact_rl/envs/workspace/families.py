"""Task families: seeded requests with the goals that make them done.

Each builder draws a small world (a few records per service, look-alikes among them), phrases a
request, and lists the goals. Three families are held out of training altogether, tool names
included, so that out-of-family rows mean something.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from specact_rl.envs.workspace.state import Call, Goal, Quirk, Task
from specact_rl.envs.workspace.tools import PRIORITIES, TOOLS, catalogue_names

# Short common words, so that a small tokenizer has each as one token.
FIRST = (
    "red blue green black white old new small large quiet broken fast slow spare main north "
    "south early late open"
).split()
SECOND = {
    "file": "config notes plan report script index draft list".split(),
    "article": "travel holiday parking visitor printer password expense training".split(),
    "ticket": "lamp desk chair phone door window badge router".split(),
    "order": "laptop cable screen mouse table keyboard camera bag".split(),
    "event": "meeting review lunch demo standup workshop call tour".split(),
    "mail": "invoice offer question complaint greeting update contract reminder".split(),
    "program": "parser login cache search export mailer queue billing".split(),
}
PEOPLE = "ann bob carl dora eve finn gina hugo iris jan kim leo mia nora omar pia".split()
KEYS = "port host color limit mode owner".split()
WORDS = (
    "amber birch cedar delta ember flint grove hazel ivory jade kelp lotus maple nickel olive "
    "pearl quartz raven slate tulip umber violet willow zinc"
).split()
DAYS = "monday tuesday wednesday thursday friday".split()
FLAGS = "todo done spam".split()
QUIRK_OF = {
    "ticket": "stale",
    "program": "stale",
    "file": "moved",
    "order": "busy",
    "event": "busy",
}
"""Which unforeseeable error each service has: the same everywhere, so that experience pays."""
QUIRK_RATE = 0.45


@dataclass(slots=True)
class Draft:
    """A task while it is being drawn."""

    rng: random.Random
    records: dict[str, dict[str, str]] = field(default_factory=dict)
    quirks: dict[str, Quirk] = field(default_factory=dict)
    goals: list[Goal] = field(default_factory=list)
    replies: dict[str, str] = field(default_factory=dict)
    allowed: dict[tuple[str, str], bool] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    hidden: set[str] = field(default_factory=set)
    tools: list[str] = field(default_factory=list)
    """Keys of the tools that the expert uses, in the order of first use."""
    used: set[str] = field(default_factory=set)

    def handle(self, service: str) -> str:
        """A new handle of a service, such as t7."""
        while True:
            handle = f"{service[0]}{self.rng.randint(1, 9)}"
            if handle not in self.used:
                self.used.add(handle)
                return handle

    def fields(self, service: str, title: str) -> dict[str, str]:
        """Field values of a new record."""
        rng = self.rng
        record = {"title": title}
        if service == "file":
            for key in rng.sample(KEYS, 2):
                record[key] = rng.choice(WORDS)
        elif service == "article":
            record["rule"] = rng.choice(WORDS)
        elif service == "ticket":
            record |= {
                "status": "open",
                "priority": rng.choice(PRIORITIES),
                "owner": rng.choice(PEOPLE),
            }
        elif service == "order":
            record |= {"price": str(rng.randint(11, 49)), "status": "paid"}
        elif service == "event":
            record |= {"day": rng.choice(DAYS), "hour": str(rng.randint(8, 18))}
        elif service == "mail":
            record |= {"sender": rng.choice(PEOPLE), "code": rng.choice(WORDS), "flag": "none"}
        elif service == "program":
            record["setting"] = rng.choice(WORDS)
        return record

    def records_of(self, service: str, count: int) -> list[str]:
        """Handles of `count` new records whose titles share words with one another."""
        firsts = self.rng.sample(FIRST, 3)
        seconds = self.rng.sample(SECOND[service], 2)
        titles = [f"{a} {b}" for a in firsts for b in seconds]
        handles = []
        for title in self.rng.sample(titles, count):
            handle = self.handle(service)
            self.records[handle] = self.fields(service, title)
            handles.append(handle)
        return handles

    def title(self, handle: str) -> str:
        """Title of a record."""
        return self.records[handle]["title"]

    def use(self, key: str, /, **arguments: object) -> Call:
        """A call by the expert; the tool becomes part of the task."""
        if key not in self.tools:
            self.tools.append(key)
        return key, arguments

    def maybe_quirk(self, handle: str, service: str) -> str:
        """Give a record its service's error, or not; returns the handle it really lives under."""
        if self.rng.random() >= QUIRK_RATE:
            return handle
        kind = QUIRK_OF[service]
        if kind == "moved":
            new = self.handle(service)
            self.records[new] = dict(self.records[handle])
            self.quirks[handle] = Quirk(kind="moved", detail=new)
            return new
        detail = f"r{self.rng.randint(1, 9)}" if kind == "stale" else ""
        self.quirks[handle] = Quirk(kind=kind, detail=detail)  # type: ignore[arg-type]
        return handle

    def find(self, service: str, handle: str, *needed_by: int) -> None:
        """Goal: have a record's handle shown."""
        call = self.use(f"{PREFIX[service]}_find", query=self.title(handle))
        self.goals.append(Goal(kind="find", call=call, target=handle, needed_by=needed_by))

    def read(self, service: str, handle: str, *needed_by: int) -> None:
        """Goal: have a record's fields shown."""
        call = self.use(f"{PREFIX[service]}_read", **{service: handle})
        self.goals.append(Goal(kind="read", call=call, target=handle, needed_by=needed_by))

    def set(self, key: str, handle: str, name: str, value: str, /, **arguments: object) -> None:
        """Goal: a field has a value."""
        service = TOOLS[key].service
        call = self.use(key, **{service: handle}, **arguments)
        self.goals.append(Goal(kind="set", call=call, target=handle, field=name, value=value))

    def verify(self, key: str, handle: str) -> None:
        """Goal: the record was looked at after its last change."""
        call = self.use(key, **{TOOLS[key].service: handle})
        self.goals.append(Goal(kind="verify", call=call, target=handle))

    def effect(self, key: str, target: str = "", /, **arguments: object) -> None:
        """Goal: one irreversible thing was done, exactly so."""
        self.goals.append(Goal(kind="effect", call=self.use(key, **arguments), target=target))

    def permission(self, action: str, handle: str) -> bool:
        """Goal: the permission table was asked; returns what it says."""
        allowed = self.rng.random() < 0.2
        self.allowed[action, handle] = allowed
        call = self.use("may", action=action, record=handle)
        self.goals.append(Goal(kind="permission", call=call, target=handle, field=action))
        return allowed

    def ask(self, name: str, reply: str, *needed_by: int) -> None:
        """Goal: the user was asked for a detail that the request lacks."""
        self.replies[name] = reply
        self.goals.append(Goal(kind="ask", target=name, needed_by=needed_by))


PREFIX = {"article": "kb", "program": "code"} | {
    s: s for s in ("file", "ticket", "order", "event", "mail")
}
"""How the keys of a service's tools begin."""

Ending = tuple[str, str, tuple[str, ...]]
"""Request, the expert's final text, and the words that a right final text must hold."""


def _done(request: str, *words: str) -> Ending:
    return request, "Done: " + " ".join(words), words


def _blocked(request: str, action: str, handle: str) -> Ending:
    return request, f"BLOCKED: {action} {handle}", ("BLOCKED", handle)


def ticket_assign(d: Draft) -> Ending:
    """Find a ticket among look-alikes and hand it to somebody."""
    ticket = d.records_of("ticket", d.rng.randint(3, 4))[0]
    person = _other(d.rng, PEOPLE, d.records[ticket]["owner"])
    d.maybe_quirk(ticket, "ticket")
    if d.rng.random() < 0.3:
        d.ask("person", person, 2)
        d.find("ticket", ticket, 2, 3)
        phrase = d.rng.choice(("Assign the {} ticket.", "Give the {} ticket to somebody else."))
    else:
        d.find("ticket", ticket, 1, 2)
        phrase = d.rng.choice(("Assign the {} ticket to {}.", "The {} ticket should go to {}."))
    d.set("ticket_assign", ticket, "owner", person, person=person)
    d.verify("ticket_read", ticket)
    return _done(phrase.format(d.title(ticket), person), ticket, person)


def ticket_priority(d: Draft) -> Ending:
    """Change a priority that the request does not name."""
    tickets = d.records_of("ticket", 3)
    ticket = tickets[0]
    d.seen.update(tickets[: d.rng.randint(1, 2)])
    priority = _other(d.rng, PRIORITIES, d.records[ticket]["priority"])
    d.maybe_quirk(ticket, "ticket")
    d.ask("priority", priority, 1)
    d.set("ticket_rank", ticket, "priority", priority, priority=priority)
    d.verify("ticket_read", ticket)
    shown = ", ".join(f"{d.title(h)} {h}" for h in sorted(d.seen))
    phrase = d.rng.choice(
        (
            "Change the priority of the {} ticket ({}).",
            "The priority of the {} ticket is wrong ({}).",
        )
    )
    return _done(phrase.format(d.title(ticket), shown), ticket, priority)


def file_edit(d: Draft) -> Ending:
    """Set a key in a file that may have moved."""
    file = d.records_of("file", 3)[0]
    key = d.rng.choice([k for k in d.records[file] if k != "title"])
    value = _other(d.rng, WORDS, d.records[file][key])
    title = d.title(file)
    real = d.maybe_quirk(file, "file")
    d.find("file", file, 1, 2)
    d.set("file_set", real, key, value, key=key, value=value)
    d.verify("file_read", real)
    phrase = d.rng.choice(("Set {1} to {2} in the {0}.", "In the {0}, {1} must be {2}."))
    return _done(phrase.format(title, key, value), real, value)


def file_carry_over(d: Draft) -> Ending:
    """Copy one file's value into another."""
    source, target = d.records_of("file", 3)[:2]
    key = d.rng.choice(KEYS)
    value = d.rng.choice(WORDS)
    d.records[source][key] = value
    d.records[target][key] = _other(d.rng, WORDS, value)
    d.seen.update((source, target))
    d.read("file", source, 1)
    d.set("file_set", target, key, value, key=key, value=value)
    d.verify("file_read", target)
    phrase = d.rng.choice(("Copy {0} from {1} to {2}.", "Give {2} the same {0} as {1}."))
    return _done(phrase.format(key, source, target), target, value)


def kb_answer(d: Draft) -> Ending:
    """Look a rule up in the handbook."""
    article = d.records_of("article", d.rng.randint(3, 4))[0]
    d.find("article", article, 1)
    d.read("article", article)
    phrase = d.rng.choice(("What is the {} rule?", "Tell me the rule on {}."))
    return _answer(phrase.format(d.title(article)), d.records[article]["rule"])


def order_total(d: Draft) -> Ending:
    """Add or compare two prices."""
    first, second = d.records_of("order", 3)[:2]
    d.seen.update((first, second))
    a, b = (int(d.records[h]["price"]) for h in (first, second))
    key, result, phrase = d.rng.choice(
        (
            ("add", a + b, "What do {} and {} cost together?"),
            ("larger", max(a, b), "What does the dearer of {} and {} cost?"),
        )
    )
    d.read("order", first, 2)
    d.read("order", second, 2)
    d.goals.append(
        Goal(kind="calc", call=d.use(key, a=a, b=b), target=f"{key} {min(a, b)} {max(a, b)}")
    )
    return _answer(phrase.format(first, second), str(result))


def order_refund(d: Draft) -> Ending:
    """Pay an order back if that is allowed."""
    order = d.records_of("order", d.rng.randint(3, 4))[0]
    request = d.rng.choice(("Refund the {}.", "Please pay back the {}.")).format(d.title(order))
    d.find("order", order, 1)
    d.tools.append("order_refund")
    if not d.permission("refund", order):
        return _blocked(request, "refund", order)
    d.maybe_quirk(order, "order")
    d.effect("order_refund", order, order=order)
    d.verify("order_read", order)
    return _done(request, order, "refunded")


def file_delete(d: Draft) -> Ending:
    """Delete a file if that is allowed."""
    file = d.records_of("file", 3)[0]
    request = d.rng.choice(("Delete the {}.", "The {} can go.")).format(d.title(file))
    d.find("file", file, 1)
    d.tools.append("file_delete")
    if not d.permission("delete", file):
        return _blocked(request, "delete", file)
    d.effect("file_delete", file, file=file)
    return _done(request, file, "deleted")


def event_move(d: Draft) -> Ending:
    """Move an event to another hour."""
    events = d.records_of("event", 3)
    event = events[0]
    for other in events[1:]:
        d.records[other]["day"] = d.records[event]["day"]
    day, hour = d.records[event]["day"], str(d.rng.randint(8, 18))
    while hour == d.records[event]["hour"]:
        hour = str(d.rng.randint(8, 18))
    d.maybe_quirk(event, "event")
    call = d.use("day_view", day=day)
    if d.rng.random() < 0.4:
        d.ask("hour", hour, 2)
        d.goals.append(Goal(kind="find", call=call, target=event, needed_by=(2, 3)))
        phrase = d.rng.choice(("Move the {0} on {1}.", "On {1} the {0} starts too early or late."))
    else:
        d.goals.append(Goal(kind="find", call=call, target=event, needed_by=(1, 2)))
        phrase = d.rng.choice(
            ("Move the {0} on {1} to {2}.", "On {1} the {0} should start at {2}.")
        )
    d.set("event_move", event, "hour", hour, hour=int(hour))
    d.verify("event_read", event)
    return _done(phrase.format(d.title(event), day, hour), event, hour)


def mail_report(d: Draft) -> Ending:
    """Tell somebody, by mail, what a record says."""
    ticket = d.records_of("ticket", 3)[0]
    person = d.rng.choice(PEOPLE)
    name = d.rng.choice(("owner", "priority"))
    value = d.records[ticket][name]
    d.find("ticket", ticket, 1)
    d.read("ticket", ticket, 2)
    d.effect("mail_send", person=person, text=value)
    phrase = d.rng.choice(
        ("Mail {0} the {1} of the {2} ticket.", "{0} wants the {1} of the {2} ticket by mail.")
    )
    return _done(phrase.format(person, name, d.title(ticket)), person, value)


def code_fix(d: Draft) -> Ending:
    """Make a failing check pass."""
    program = d.records_of("program", 2)[0]
    value = _other(d.rng, WORDS, d.records[program]["setting"])
    d.records[program]["wanted"] = value
    d.seen.add(program)
    d.maybe_quirk(program, "program")
    call = d.use("check_run", program=program)
    d.goals.append(Goal(kind="read", call=call, target=program, needed_by=(1,)))
    d.set("code_patch", program, "setting", value, value=value)
    d.verify("check_run", program)
    phrase = d.rng.choice(("The checks of {} fail. Fix it.", "Make the checks of {} pass."))
    return _done(phrase.format(program), program, value)


def hidden_tool(d: Draft) -> Ending:
    """Do something that the catalogue has no tool for, until one looks further."""
    ticket = d.records_of("ticket", 3)[0]
    d.hidden.add("ticket_archive")
    d.maybe_quirk(ticket, "ticket")
    d.goals.append(
        Goal(
            kind="tool",
            call=d.use("tool_find", query="archive"),
            target="ticket_archive",
            needed_by=(2,),
        )
    )
    d.find("ticket", ticket, 2, 3)
    d.set("ticket_archive", ticket, "status", "archived")
    d.verify("ticket_read", ticket)
    phrase = d.rng.choice(("Archive the {} ticket.", "Put the {} ticket into the archive."))
    return _done(phrase.format(d.title(ticket)), ticket, "archived")


def room_booking(d: Draft) -> Ending:
    """Held out: book a room at an hour that has to be asked for, and mail it."""
    event = d.records_of("event", 2)[0]
    day, hour = d.records[event]["day"], str(d.rng.randint(8, 18))
    person = d.rng.choice(PEOPLE)
    d.ask("hour", hour, 1, 2)
    d.effect("event_book", day=day, hour=int(hour))
    d.effect("mail_send", person=person, text=hour)
    return _done(f"Book a room on {day} and mail {person} the hour.", day, hour)


def access_audit(d: Draft) -> Ending:
    """Held out: close a ticket, where the table allows it."""
    ticket = d.records_of("ticket", 3)[0]
    request = f"If it is allowed, close the {d.title(ticket)} ticket."
    d.find("ticket", ticket, 1)
    d.tools.append("ticket_close")
    if not d.permission("close", ticket):
        return _blocked(request, "close", ticket)
    d.maybe_quirk(ticket, "ticket")
    d.set("ticket_close", ticket, "status", "closed")
    d.verify("ticket_read", ticket)
    return _done(request, ticket, "closed")


def mail_to_file(d: Draft) -> Ending:
    """Held out: what a mail says goes into a file."""
    mail = d.records_of("mail", 3)[0]
    file = d.records_of("file", 2)[0]
    key = next(k for k in d.records[file] if k != "title")
    value = _other(d.rng, WORDS, d.records[file][key])
    d.records[mail]["code"] = value
    real = d.maybe_quirk(file, "file")
    d.seen.add(file)
    d.find("mail", mail, 1)
    d.read("mail", mail, 2)
    d.set("file_set", real, key, value, key=key, value=value)
    d.verify("file_read", real)
    return _done(f"Set {key} in {file} to the code of the {d.title(mail)} mail.", real, value)


def _answer(request: str, value: str) -> Ending:
    return request, f"Answer: {value}", (value,)


def _other(rng: random.Random, choices: list[str] | tuple[str, ...], not_this: str) -> str:
    return rng.choice([c for c in choices if c != not_this])


FAMILIES: dict[str, Callable[[Draft], Ending]] = {
    build.__name__: build
    for build in (
        ticket_assign,
        ticket_priority,
        file_edit,
        file_carry_over,
        kb_answer,
        order_total,
        order_refund,
        file_delete,
        event_move,
        mail_report,
        code_fix,
        hidden_tool,
    )
}
HELD_OUT_FAMILIES: dict[str, Callable[[Draft], Ending]] = {
    build.__name__: build for build in (room_booking, access_audit, mail_to_file)
}


def draw_task(seed: int, *, held_out: bool = False) -> Task:
    """The task of a seed: the same in every process, and different for most other seeds."""
    rng = random.Random(f"workspace/{'held-out' if held_out else 'in'}/{seed}")
    families = HELD_OUT_FAMILIES if held_out else FAMILIES
    family = rng.choice(sorted(families))
    draft = Draft(rng)
    request, final, required_words = families[family](draft)
    distractors = [k for k in sorted(TOOLS) if k not in draft.tools and k != "ticket_archive"]
    keys = [*draft.tools, *rng.sample(distractors, rng.randint(2, 4))]
    rng.shuffle(keys)
    return Task(
        task_id=f"ws-{'h' if held_out else ''}{seed:06d}",
        family=family,
        held_out=held_out,
        request=request,
        records=draft.records,
        quirks=draft.quirks,
        goals=tuple(draft.goals),
        final=final,
        required_words=required_words,
        replies=draft.replies,
        allowed=draft.allowed,
        seen=frozenset(draft.seen),
        names=catalogue_names(keys, held_out=held_out, rng=rng),
        hidden=frozenset(draft.hidden),
        undescribed=frozenset(k for k in keys if rng.random() < 0.1),
    )
