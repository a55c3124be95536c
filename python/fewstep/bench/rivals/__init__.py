# SPDX-License-Identifier: Apache-2.0
"""What fewstep is measured against, one file each."""
