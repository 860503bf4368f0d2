"""The workers that train together, before TensorFlow starts.

TensorFlow waits for ever for a worker that does not come, and what workers of
other options compute together is an error of a collective or, worse, none. So
they meet first, over the addresses that TF_CONFIG names.
"""

import contextlib
import dataclasses
import json
import logging
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias, TypeVar

_LOG = logging.getLogger("keras_lficam")
_GREETING = "keras_lficam worker"
_LONGEST = 1 << 20  # Bytes of a message.
_PATIENCE = 5.0  # Seconds for a message that was started.
_PAUSE = 0.2  # Seconds between two tries.
_SLURM_PORT = 8888  # Of a node's first task; the next has the next.
_MOST_TASKS = 100_000  # Of a range in a node list, so that memory is bounded.
_REMIND = 60.0  # Seconds between two lines that say who is missing.

_Read = TypeVar("_Read", str, int)
# Of each worker its connection, what it is about to do, and its host.
_Heard: TypeAlias = dict[str, tuple[socket.socket, dict[str, Any], str]]


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The workers and which one this is.

    Args:
        names: `"chief 0"`, `"worker 0"` and so on; the first leads.
        addresses: Host and port of each.
        index: Number of this one in both.
    """

    names: list[str]
    addresses: list[str]
    index: int


def read(text: str) -> Cluster:
    """Reads and checks TF_CONFIG, of whose faults TensorFlow says little.

    Args:
        text: Its value.

    Returns:
        The workers, the chief first if there is one.

    Raises:
        ValueError: If it is not as TensorFlow wants it.
    """
    try:
        config = json.loads(text)
    except ValueError as error:
        raise _wrong(text, f"JSON ({error})") from None
    cluster = config.get("cluster") if isinstance(config, dict) else None
    if not isinstance(cluster, dict) or not cluster.get("worker"):
        raise _wrong(text, 'a "cluster" with a "worker"')
    unknown = sorted(cluster.keys() - {"worker", "chief", "evaluator"})
    if unknown:
        raise _wrong(text, f"no jobs but worker and chief: {unknown}")
    for addresses in cluster.values():
        if not isinstance(addresses, list) or not all(
            isinstance(address, str) and ":" in address for address in addresses
        ):
            raise _wrong(text, "lists of addresses with ports")
        for address in addresses:
            port = address.rpartition(":")[2]
            if not port.isdecimal() or not 1 <= int(port) <= 65535:
                raise _wrong(text, f"ports from 1 to 65535, not {address}")
    every = [address for job in cluster.values() for address in job]
    twice = sorted({address for address in every if every.count(address) > 1})
    if twice:
        raise _wrong(text, f"an address for each task, not twice {twice[0]}")
    if len(cluster.get("chief", [])) > 1:
        raise _wrong(text, "one chief at most")
    kind, number = _task(config, cluster, text)
    jobs = [job for job in ("chief", "worker") if cluster.get(job)]
    names = [f"{job} {i}" for job in jobs for i in range(len(cluster[job]))]
    addresses = [address for job in jobs for address in cluster[job]]
    return Cluster(names, addresses, names.index(f"{kind} {number}"))


def _task(
    config: Mapping[str, Any], cluster: Mapping[str, list[str]], text: str
) -> tuple[str, int]:
    task = config.get("task")
    if not isinstance(task, dict) or not {"type", "index"} <= task.keys():
        raise _wrong(text, 'a "task" with "type" and "index"')
    kind, number = task["type"], task["index"]
    if not isinstance(kind, str):
        raise _wrong(text, f"a task type that is a string, not {kind!r}")
    if kind == "evaluator":
        raise _wrong(
            text,
            "a task that trains, not an evaluator: workers validate "
            "themselves, so start none",
        )
    tasks = len(cluster.get(kind, []))
    if isinstance(number, bool) or str(number) not in map(str, range(tasks)):
        raise _wrong(
            text, f"a task that is in its cluster, not {kind} {number}"
        )
    return kind, int(number)


def _wrong(text: str, expected: str) -> ValueError:
    example = {
        "cluster": {"worker": ["one:12345", "two:12345"]},
        "task": {"type": "worker", "index": 0},
    }
    return ValueError(
        f"The environment variable TF_CONFIG must have {expected}. Received: "
        f"{text}. It looks like {json.dumps(example)}, with another index on "
        "each machine."
    )


def count_of_slurm(environment: Mapping[str, str]) -> int:
    """Counts the tasks of a step of Slurm.

    Args:
        environment: The environment variables, `SLURM_PROCID` among them.

    Returns:
        The number; 1 outside of a step, as in a batch script.

    Raises:
        ValueError: If it is not as Slurm sets it.
    """
    if "SLURM_STEP_NUM_TASKS" not in environment:
        return 1
    return slurm_number(environment, "SLURM_STEP_NUM_TASKS", 1, _MOST_TASKS)


def read_slurm(environment: Mapping[str, str]) -> Cluster:
    """Reads and checks what Slurm tells a task about its step.

    Nodes stand in the order of Slurm, after which it numbers the tasks.
    TensorFlow's resolver sorts them by their letters, `node10` before `node9`.

    Args:
        environment: The environment variables.

    Returns:
        The workers.

    Raises:
        ValueError: If a variable is missing or not as Slurm sets it, or they
            do not fit together.
    """
    count = count_of_slurm(environment)
    index = slurm_number(environment, "SLURM_PROCID", 0, count - 1)
    nodes = _slurm_list(environment, "SLURM_STEP_NODELIST", _hosts)
    tasks = _slurm_list(environment, "SLURM_STEP_TASKS_PER_NODE", _repeated)
    if len(nodes) != len(tasks) or sum(tasks) != count:
        raise ValueError(
            "The environment variables SLURM_STEP_NODELIST, "
            "SLURM_STEP_TASKS_PER_NODE and SLURM_STEP_NUM_TASKS must fit "
            f"together. Received: {len(nodes)} nodes, {sum(tasks)} tasks on "
            f"{len(tasks)} nodes, and {count} tasks. To fix this: start the "
            "program by srun, and leave its variables as they are."
        )
    addresses = [
        f"{node}:{_SLURM_PORT + number}"
        for node, own in zip(nodes, tasks, strict=True)
        for number in range(own)
    ]
    names = [f"worker {number}" for number in range(count)]
    return Cluster(names, addresses, index)


def slurm_number(
    environment: Mapping[str, str], name: str, low: int, high: int
) -> int:
    """Reads a number that Slurm sets.

    Args:
        environment: The environment variables.
        name: Name of the variable.
        low: The least it can be.
        high: The most.

    Returns:
        The number.

    Raises:
        ValueError: If it is missing, no integer or out of range.
    """
    text = environment.get(name)
    is_number = text is not None and re.fullmatch(r"[0-9]{1,9}", text)
    if not is_number or not low <= int(text or 0) <= high:
        raise _not_of_slurm(name, f"an integer from {low} to {high}", text)
    return int(text or 0)


def _slurm_list(
    environment: Mapping[str, str],
    name: str,
    read: Callable[[str], list[_Read]],
) -> list[_Read]:
    text = environment.get(name)
    form = {
        "SLURM_STEP_NODELIST": "names of nodes such as node[7-8,10], each once",
        "SLURM_STEP_TASKS_PER_NODE": "numbers of tasks such as 2(x3),1",
    }[name]
    try:
        found = read(text or "")
    except ValueError:
        found = []
    if not found:
        raise _not_of_slurm(name, form, text)
    return found


def _not_of_slurm(name: str, expected: str, text: str | None) -> ValueError:
    received = "none" if text is None else f"{text!r:.200}"
    return ValueError(
        f"The environment variable {name} must hold {expected}. Received: "
        f"{received}. To fix this: start the program by srun, which sets it, "
        "or name the workers by TF_CONFIG."
    )


def _hosts(text: str) -> list[str]:
    """Expands `"a[1-2],b"` to `["a1", "a2", "b"]`."""
    if not re.fullmatch(r"([^\s,\[\]:]|\[[-0-9,]+\]|,)+", text):
        raise ValueError
    hosts: list[str] = []
    # At commas outside of brackets.
    for part in re.split(r",(?![^\[]*\])", text):
        hosts += _expanded(part)
    if "" in hosts or len(set(hosts)) < len(hosts):
        raise ValueError
    return hosts


def _expanded(part: str) -> list[str]:
    before, bracket, rest = part.partition("[")
    if not bracket:
        return [part]
    ranges, _, behind = rest.partition("]")
    numbers: list[str] = []
    for span in ranges.split(","):
        first, _, last = span.partition("-")
        last = last or first
        if int(last) < int(first) or int(last) - int(first) > _MOST_TASKS:
            raise ValueError
        numbers += [
            str(number).zfill(len(first))
            for number in range(int(first), int(last) + 1)
        ]
    tails = _expanded(behind)
    if len(numbers) * len(tails) > _MOST_TASKS:
        raise ValueError
    return [f"{before}{number}{tail}" for number in numbers for tail in tails]


def _repeated(text: str) -> list[int]:
    """Expands `"2(x3),1"` to `[2, 2, 2, 1]`."""
    tasks: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"([0-9]{1,6})(?:\(x([0-9]{1,6})\))?", part)
        if found is None or int(found[1]) == 0:
            raise ValueError
        tasks += [int(found[1])] * int(found[2] or 1)
    return tasks


def meet(
    cluster: Cluster,
    about: Mapping[str, Any],
    *,
    wait: float,
    say: Callable[[str], None] = _LOG.warning,
) -> None:
    """Waits for all workers, and compares what they are about to do.

    Args:
        cluster: The workers.
        about: What must be equal, by its name; anything that JSON holds.
        wait: Seconds after which it gives up.
        say: Function that is told for whom it waits.

    Raises:
        ValueError: If the port of this worker is taken, a worker did not come,
            one came twice, or they differ.
    """
    meeting = _Meeting(cluster, json.loads(json.dumps(about)), wait, say)
    with _listening(cluster) as own:
        if cluster.index == 0:
            meeting.lead(own)
        else:
            meeting.follow()


@contextlib.contextmanager
def _listening(cluster: Cluster) -> Iterator[socket.socket]:
    """Listens on this worker's port, which so is seen to be free."""
    name, address = (
        cluster.names[cluster.index],
        cluster.addresses[cluster.index],
    )
    port = int(address.rpartition(":")[2])
    dual = socket.has_dualstack_ipv6()
    try:
        own = socket.create_server(
            ("", port),
            family=socket.AF_INET6 if dual else socket.AF_INET,
            dualstack_ipv6=dual,
        )
    except OSError as error:
        raise ValueError(
            f"The port of {name}, {address}, cannot be used "
            f"({error.strerror}): another program has it, or another worker "
            "of the same index. To fix this: end that program, or give each "
            "worker an index and an address of its own in TF_CONFIG."
        ) from None
    with own:
        yield own


class _Meeting:
    def __init__(
        self,
        cluster: Cluster,
        about: dict[str, Any],
        wait: float,
        say: Callable[[str], None],
    ):
        self.cluster = cluster
        self.about = about
        self.wait = wait
        self.say = say
        self.end = time.monotonic() + wait
        self.reminded = time.monotonic() + _PATIENCE - _REMIND

    def lead(self, own: socket.socket) -> None:
        """Hears all others, and tells them whether they agree."""
        own.settimeout(_PAUSE)
        heard: _Heard = {}
        try:
            while len(heard) < len(self.cluster.names) - 1:
                missing = set(self.cluster.names[1:]) - heard.keys()
                self._remind(sorted(missing))
                try:
                    connection, (host, *_) = own.accept()
                except TimeoutError:
                    # One that was ended comes again when it is restarted.
                    self._forget_the_gone(heard)
                    continue
                self._hear(connection, host, heard)
            self._compare(heard)
        except ValueError as error:
            self._answer(heard, str(error))
            raise
        self._answer(heard, "")

    def _hear(
        self, connection: socket.socket, host: str, heard: _Heard
    ) -> None:
        message: Any = None
        with contextlib.suppress(OSError, ValueError):
            message = _receive(connection)
        if not self._is_of_a_worker(message):  # Of one who looks at ports.
            connection.close()
            return
        _, name, about = message
        self._forget_the_gone(heard)
        if name in heard:
            problem = (
                f"{name} came twice, from {heard[name][2]} and from {host}. To "
                "fix this: give each worker an index of its own in TF_CONFIG."
            )
            self._answer({name: (connection, about, host)}, problem)
            raise ValueError(problem)
        heard[name] = connection, about, host

    def _is_of_a_worker(self, message: Any) -> bool:
        if not isinstance(message, list) or len(message) != 3:
            return False
        greeting, name, about = message
        return (
            greeting == _GREETING
            and name in self.cluster.names[1:]
            and isinstance(about, dict)
        )

    def _forget_the_gone(self, heard: _Heard) -> None:
        for name, (connection, *_) in [*heard.items()]:
            connection.setblocking(False)
            try:
                gone = connection.recv(1) == b""
            except BlockingIOError:
                gone = False
            except OSError:
                gone = True
            connection.settimeout(_PATIENCE)
            if gone:
                heard.pop(name)
                connection.close()

    def _compare(self, heard: _Heard) -> None:
        mine = self.cluster.names[0]
        for name, (_, about, _) in sorted(heard.items()):
            check_agreement({mine: self.about, name: about})

    def _answer(self, heard: _Heard, problem: str) -> None:
        for connection, *_ in heard.values():
            with contextlib.suppress(OSError):
                _send(connection, problem)
                # The other side closes first, so that no connection lingers
                # on the port that TensorFlow takes next.
                connection.settimeout(_PATIENCE)
                connection.recv(1)
            connection.close()

    def follow(self) -> None:
        """Tells the first worker who this is, and hears what it says."""
        leader, address = self.cluster.names[0], self.cluster.addresses[0]
        host, _, port = address.rpartition(":")
        problem = None
        while problem is None:
            self._remind([leader])
            try:
                connection = socket.create_connection(
                    (host.strip("[]"), int(port)), timeout=_PATIENCE
                )
            except OSError:
                time.sleep(_PAUSE)
                continue
            with connection:
                problem = self._ask(connection)
        if problem:
            raise ValueError(problem)

    def _ask(self, connection: socket.socket) -> str | None:
        """Gives what the first worker says; None if it is gone."""
        name = self.cluster.names[self.cluster.index]
        try:
            _send(connection, [_GREETING, name, self.about])
            # It may wait for others; this one gives up a little later.
            answer = _receive(connection, self.end - time.monotonic() + 2)
        except (OSError, ValueError):
            time.sleep(_PAUSE)
            return None
        return answer if isinstance(answer, str) else None

    def _remind(self, missing: Iterable[str]) -> None:
        names = ", ".join(
            f"{name} ({self.cluster.addresses[self.cluster.names.index(name)]})"
            for name in missing
        )
        now = time.monotonic()
        if now > self.end:
            raise ValueError(
                f"Waited {self.wait:g} s for {names}, which did not come. To "
                "fix this: start every worker of TF_CONFIG, see that their "
                "addresses can be reached from here, and start again; or wait "
                "longer."
            )
        if now - self.reminded > _REMIND:
            self.reminded = now
            self.say(
                f"{self.cluster.names[self.cluster.index]} waits for {names}, "
                f"{self.end - now:.0f} s at most"
            )


def check_agreement(told: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuses workers that are about to do different things.

    Args:
        told: What each worker is about to do, by its name.

    Raises:
        ValueError: If two differ, with the first difference.
    """
    (first, expected), *others = told.items()
    for name, about in others:
        for key in [*expected, *(set(about) - set(expected))]:
            one, other = expected.get(key), about.get(key)
            if one != other:
                raise ValueError(
                    f"The workers differ in {key}: {first} has {one!r}, {name} "
                    f"has {other!r}. To fix this: start all with the same "
                    "command, data and versions."
                )


def _send(connection: socket.socket, message: Any) -> None:
    connection.sendall(json.dumps(message).encode() + b"\n")


def _receive(connection: socket.socket, seconds: float = _PATIENCE) -> Any:
    end = time.monotonic() + seconds
    text = b""
    while not text.endswith(b"\n"):
        connection.settimeout(max(0.01, end - time.monotonic()))
        part = connection.recv(4096)
        text += part
        if not part or len(text) > _LONGEST:
            raise ValueError("The message is cut or too long.")
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("The message is nested too deeply.") from None
