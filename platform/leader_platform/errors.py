"""The two ways in which LEADER fails on purpose; everything else is a bug and keeps its traceback."""


class UserError(ValueError):
    """Bad input. The message is one sentence that names the value at fault and the way out. Exit code 2."""


class RunError(RuntimeError):
    """Good input, but the run failed (a worker died, a deployment never became healthy). Exit code 1."""


def find_cause(error: BaseException, kinds: tuple[type[BaseException], ...]) -> BaseException | None:
    """The first error of `kinds` in the chain of causes of `error`, or None.

    Ray wraps what a remote function raised, several layers deep and by two means (`cause` and `__cause__`); a user must
    see the sentence at the bottom of the chain, not the layers.
    """
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        current = pending.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, kinds):
            # Ray's dual exceptions are instances of the cause's class, but carry a remote traceback as their text.
            inner = getattr(current, "cause", None)
            return inner if isinstance(inner, kinds) else current
        pending += [getattr(current, "cause", None), current.__cause__, current.__context__]
    return None
