"""Kernels of this very Python, whatever Jupyter would find under their name, forked from the running server."""

import os
import sys
import uuid
from multiprocessing.process import BaseProcess
from typing import Any

from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.provisioning import LocalProvisioner

from mlp_lib.workers.server import settle, start_server


class KernelManager(AsyncKernelManager):
    """Starts a kernel of this Python."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """That of ipykernel, which the environment of the command has."""
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="Python 3 (ipykernel)", language="python")

    async def _async_pre_start_kernel(self, **options: Any) -> Any:
        self.kernel_id = self.kernel_id or str(uuid.uuid4())
        if self.provisioner is None:
            self.provisioner = _Forked(kernel_id=self.kernel_id, kernel_spec=self.kernel_spec, parent=self)
        return await super()._async_pre_start_kernel(**options)


class _Forked(LocalProvisioner):
    """Jupyter's way to start a kernel as a local process, but that the process is the server's."""

    async def launch_kernel(self, cmd: list[str], **options: Any) -> Any:
        arguments = cmd[cmd.index("ipykernel_launcher") + 1 :]
        own = (arguments, options["env"], options.get("cwd") or os.getcwd())
        process = start_server(environment=options["env"]).Process(target=_serve, args=own)
        process.start()
        self.process, self.pid, self.cwd = _Process(process), process.pid, own[-1]
        return self.connection_info


class _Process:
    """A process of multiprocessing as one of subprocess, which Jupyter expects."""

    stdin = stdout = stderr = None

    def __init__(self, process: BaseProcess):
        self.process = process

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self) -> int | None:
        self.process.join()
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        if self.process.is_alive():
            os.kill(self.process.pid, number)


def _serve(arguments: list[str], environment: dict[str, str], folder: str) -> None:
    """Be a kernel."""
    settle(environment)
    os.chdir(folder)
    from ipykernel import kernelapp

    kernelapp.launch_new_instance(argv=arguments)
