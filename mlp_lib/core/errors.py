"""Errors that tell a user what is wrong and what to do, without a traceback."""


class MlpError(Exception):
    """A mistake or mishap that its message explains; the command prints it as one line."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in a notebook: the message alone."""
        return [f"{type(self).__name__}: {self}"]


class SettingsError(MlpError):
    """A parameter is unknown, has a wrong type or is out of range."""


class DataError(MlpError):
    """A data set is missing, damaged or not the one expected."""


class TrainingError(MlpError):
    """Trainings ended without a usable result."""
