# SPDX-License-Identifier: Apache-2.0
"""``fewstep gpu-check``: everything that is to be proved on a machine with a GPU, in one command.

A check is a list of sections, one file each; a section runs children with a deadline and returns
its outcome, and the report is written after each. What an op adds it adds to the tests' case tables
and to the benchmark: nothing here names an op.
"""
