"""Every error this package raises on purpose, as one tree.

GpumpcError
├── InputError                 a caller's argument cannot be used
│   ├── BadShape               a tensor's shape is not the one asked for
│   ├── BadValue               NaN, infinity, or not a number
│   ├── OutOfRange             a value outside the range the plan declares
│   ├── UnknownArgument        a function has no argument of this name; a TypeError too
│   └── UnreadableImage        a file that yields no image
├── PlanError                  a network cannot be compiled, or a plan file cannot be read
│   ├── UnsupportedOperator    an operator of the model has no private counterpart here
│   ├── RangeTooWide           a layer's values do not fit its ring
│   └── CorruptPlan            a plan file is damaged or from another version
├── ConfigError                a party's files are not in order
│   ├── MissingFile
│   ├── ExposedSecret          a secret file that others can read
│   ├── CorruptStore           shares at rest are damaged, or of another pair of servers
│   └── MissingExtra           an optional package is needed and absent
├── ShareError                 shares that must not be combined
│   ├── BitsMismatch
│   ├── FracMismatch
│   └── ForeignShare           a share of another session, program or owner
├── WireError                  bytes between processes
│   ├── BadFrame               truncated, foreign, duplicated or out of order
│   ├── PeerLost               the other process went away
│   ├── PeerTimeout            the other process did not answer in time
│   ├── AccessDenied           a key that is not on the list
│   └── RemoteError            the other process reports an error of its own
├── HandshakeMismatch          the parties do not agree on a field
├── CorrelationError           correlated randomness
│   ├── BatchAlreadyUsed       a batch number is spent, burnt or behind the mark
│   ├── MaskReused             one mask asked for twice
│   ├── CorrelationsMissing    the dealer has not delivered
│   └── LeftoverCorrelations   a run ended with corrections unread
├── OutOfResources             no file number, memory or disk space at this moment
├── SelectionFailed            a search drew an unlucky sample; repeated under a new shuffle
├── CostMismatch               measured bytes or rounds differ from the declared ones
├── RevealError                a result that cannot be put together
├── WrongResult                images with known results came back with others
└── WrongStatement             what a server signed is not what was asked for or done

Each message has three parts: what happened, why, and what to do about it.
"""


class GpumpcError(Exception):
    """Base of all errors raised on purpose.

    Args:
        what: what happened, and to what.
        why: the cause, as far as it is known.
        hint: what the reader can do about it.
    """

    def __init__(self, what: str, why: str = "", hint: str = "") -> None:
        self.what, self.why, self.hint = what, why, hint
        super().__init__(what, why, hint)

    def __str__(self) -> str:
        parts = [self.what.rstrip(".") + "."]
        if self.why:
            parts.append(f"Cause: {self.why.rstrip('.')}.")
        if self.hint:
            parts.append(f"What to do: {self.hint.rstrip('.')}.")
        return " ".join(parts)


class InputError(GpumpcError):
    """A caller's argument cannot be used."""


class BadShape(InputError):
    """A tensor's shape is not the one asked for."""


class BadValue(InputError):
    """NaN, infinity, or not a number."""


class OutOfRange(InputError):
    """A value outside the range the plan declares."""


class UnknownArgument(InputError, TypeError):
    """A function has no argument of this name."""


class UnreadableImage(InputError):
    """A file that yields no image: damaged, of an unknown kind, or beyond the limits."""


class PlanError(GpumpcError):
    """A network cannot be compiled, or a plan file cannot be read."""


class UnsupportedOperator(PlanError):
    """An operator of the model has no private counterpart here."""


class RangeTooWide(PlanError):
    """A layer's values do not fit its ring."""


class CorruptPlan(PlanError):
    """A plan file is damaged or from another version."""


class ConfigError(GpumpcError):
    """A party's files are not in order."""


class MissingFile(ConfigError):
    """A file that a party needs is not there."""


class ExposedSecret(ConfigError):
    """A secret file that others can read."""


class CorruptStore(ConfigError):
    """Shares at rest are damaged, or belong to another pair of servers."""


class MissingExtra(ConfigError):
    """An optional package is needed and absent."""


class ShareError(GpumpcError):
    """Shares that must not be combined."""


class BitsMismatch(ShareError):
    """Shares modulo different powers of two."""


class FracMismatch(ShareError):
    """Shares at different fixed-point scales."""


class ForeignShare(ShareError):
    """A share of another session, program or owner."""


class WireError(GpumpcError):
    """Bytes between processes."""


class BadFrame(WireError):
    """A frame that is truncated, foreign, duplicated or out of order."""


class PeerLost(WireError):
    """The other process went away."""


class PeerTimeout(WireError):
    """The other process did not answer in time."""


class AccessDenied(WireError):
    """A key that is not on the list."""


class RemoteError(WireError):
    """The other process reports an error of its own."""


class HandshakeMismatch(GpumpcError):
    """The parties do not agree on a field.

    Args:
        field: the first field that differs.
        ours, theirs: both values, as text that gives no secret away.
    """

    def __init__(
        self, field: str, ours: str = "", theirs: str = "", peer: str = "the peer"
    ) -> None:
        self.field, self.ours, self.theirs, self.peer = field, ours, theirs, peer
        super().__init__(
            f"handshake with {peer} failed: the field '{field}' differs",
            f"here it is {ours}, there it is {theirs}",
            "give both parties the same plan, configuration and version of gpumpc, then start them "
            "again",
        )


class CorrelationError(GpumpcError):
    """Something is wrong with the correlated randomness."""


class BatchAlreadyUsed(CorrelationError):
    """A batch number is spent, burnt or behind the mark."""


class MaskReused(CorrelationError):
    """One mask was asked for twice."""


class CorrelationsMissing(CorrelationError):
    """The dealer has not delivered what a run needs."""


class LeftoverCorrelations(CorrelationError):
    """A run ended with corrections unread."""


class OutOfResources(GpumpcError):
    """No file number, memory or disk space at this moment: nothing is damaged, and it passes."""


class SelectionFailed(GpumpcError):
    """A search drew an unlucky sample: it is repeated, and nothing was released."""


class CostMismatch(GpumpcError):
    """Measured bytes or rounds differ from the declared ones."""


class RevealError(GpumpcError):
    """A result that cannot be put together."""


class WrongResult(GpumpcError):
    """Images with known results came back with others: the request's results are not right."""


class WrongStatement(GpumpcError):
    """What a server signed is not what was asked for, or not what the other server saw."""
