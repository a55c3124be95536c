# SPDX-License-Identifier: Apache-2.0
"""What the build's CUDA options do, and how they say no. Configures only; builds nothing."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from .cuda_code import nvcc
from .project import ROOT, tool

GPU = any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()


def configure(folder: Path, *options: str, **environment: str) -> tuple[int, str]:
    """Return the exit code and the text of a configuration, its line breaks removed."""
    command = [tool("cmake"), "-S", str(ROOT), "-B", str(folder / "build")]
    command += ["-DFEWSTEP_PYTHON=OFF", "-DFEWSTEP_TESTS=OFF", *options]
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    return result.returncode, re.sub(r"\s+", " ", result.stdout + result.stderr)


def compiler_that_says(text: str, folder: Path) -> str:
    """Return the path of a program with nvcc's name that answers with this text."""
    program = folder / "nvcc"
    program.write_text(f"#!/bin/sh\necho '{text}'\n")
    program.chmod(0o755)
    return str(program)


@pytest.mark.skipif(GPU, reason="this machine has a GPU")
def test_auto_without_a_gpu_builds_none_and_asks_no_compiler(tmp_path: Path) -> None:
    code, text = configure(tmp_path, CUDACXX="/nonexistent/nvcc")
    assert code == 0, text
    assert "CUDA kernels: none (no GPU on this machine; FEWSTEP_CUDA=ON builds them anyway)" in text


def test_off_builds_none(tmp_path: Path) -> None:
    code, text = configure(tmp_path, "-DFEWSTEP_CUDA=OFF")
    assert code == 0, text
    assert "CUDA kernels: none (FEWSTEP_CUDA=OFF)" in text


def test_another_word_is_an_error(tmp_path: Path) -> None:
    code, text = configure(tmp_path, "-DFEWSTEP_CUDA=yes")
    assert code != 0
    assert "FEWSTEP_CUDA must be AUTO, ON or OFF, got 'yes'" in text


def test_on_without_a_compiler_is_an_error(tmp_path: Path) -> None:
    code, text = configure(tmp_path, "-DFEWSTEP_CUDA=ON", CUDACXX="/nonexistent/nvcc")
    assert code != 0
    wanted = "FEWSTEP_CUDA=ON needs nvcc 12.4 or newer: '/nonexistent/nvcc --version' names no"
    assert wanted in text


def test_on_with_an_old_compiler_is_an_error(tmp_path: Path) -> None:
    old = compiler_that_says("Cuda compilation tools, release 12.3, V12.3.107", tmp_path)
    code, text = configure(tmp_path, "-DFEWSTEP_CUDA=ON", CUDACXX=old)
    assert code != 0
    assert f"FEWSTEP_CUDA=ON needs nvcc 12.4 or newer: {old} is version 12.3" in text


@pytest.mark.parametrize(
    ("architectures", "message"),
    [
        (
            "90a-real;90a-reel",
            "FEWSTEP_CUDA_ARCHS must be a list such as 80-real;90a-real;90-virtual, got "
            "'90a-reel' in '90a-real;90a-reel'",
        ),
        ("sm_90", "got 'sm_90' in 'sm_90'"),
        ("35-real", "), got '35-real'"),
        ("", "FEWSTEP_CUDA_ARCHS must name an architecture, got ''"),
    ],
)
def test_wrong_architectures_are_errors(tmp_path: Path, architectures: str, message: str) -> None:
    options = ["-DFEWSTEP_CUDA=ON", f"-DFEWSTEP_CUDA_ARCHS={architectures}"]
    code, text = configure(tmp_path, *options, CUDACXX=nvcc())
    assert code != 0
    assert message in text
