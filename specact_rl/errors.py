"""What can go wrong at a boundary, one class each; the command line turns them into exit code 2."""


class SpecActError(Exception):
    """Base of all errors that a user can act on: says what, where and what to do."""


class RolloutFormatError(SpecActError):
    """A log line or table row is not what its format says."""


class ConfigError(SpecActError):
    """A config file, an argument or a manifest does not fit."""


class SplitLeakError(SpecActError):
    """The same task, or the same request in the same initial state, is in two splits."""


class ModelError(SpecActError):
    """A checkpoint, tokenizer or chat template is not the one that is needed."""


class ServerError(SpecActError):
    """A model server did not answer, refused, or answered what its protocol does not know."""


class EnvironmentFault(SpecActError):
    """The environment itself failed; never the agent's mistake."""


class DegenerateResultError(SpecActError):
    """A mechanical fault that would otherwise become a results row, with its diagnosis."""
