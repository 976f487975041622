"""Progress of long work: a line that changes on a terminal, plain lines now and then elsewhere."""

import time
from functools import cached_property

import pytest

_CI_SECONDS = 10.0


class Progress:
    """Writes to pytest's terminal reporter; a worker, which has none, says nothing."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._shown_at = -_CI_SECONDS

    @cached_property
    def _reporter(self) -> pytest.TerminalReporter | None:
        """pytest's reporter, looked for late: it is registered after the plugins are configured."""
        return self._config.pluginmanager.get_plugin("terminalreporter")

    def __call__(self, text: str) -> None:
        """Show `text` as what is being done."""
        if self._reporter is None or self._reporter.verbosity < 0:
            return
        if self._reporter.isatty:
            width = self._reporter._tw.fullwidth
            self._reporter.rewrite(f"nixos: {text}"[: width - 1], erase=True)
        elif time.monotonic() - self._shown_at >= _CI_SECONDS:
            self._reporter.write_line(f"nixos: {text}")
            self._shown_at = time.monotonic()

    def text(self, text: str) -> None:
        """Print what was asked for, also where nothing else is to be said."""
        if self._reporter is None:
            print(text)
        else:
            self._on_new_line(self._reporter)
            self._reporter.write_line(text)

    def warning(self, text: str) -> None:
        """Show a warning, whatever the verbosity: who is not told of a lost record believes that there is one."""
        if self._reporter is not None:
            self.text(f"nixos: warning: {text}")

    def line(self, text: str) -> None:
        """Show `text` as a line that stays."""
        if self._reporter is None or self._reporter.verbosity < 0:
            return
        if self._reporter.isatty:
            self._reporter.rewrite("", erase=True)
        self._on_new_line(self._reporter)
        self._reporter.write_line(f"nixos: {text}")

    @staticmethod
    def _on_new_line(reporter: pytest.TerminalReporter) -> None:
        reporter.ensure_newline()
        if reporter._tw.width_of_current_line:  # with -q, pytest forgets that it has written dots
            reporter._tw.line()
