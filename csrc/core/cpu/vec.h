// SPDX-License-Identifier: Apache-2.0
#pragma once

// The vector of the ISA that a kernel file is compiled for. Included by kernel files only.
//
// Every operation below is exact or correctly rounded (IEEE fma, sqrt, conversions), so a kernel
// that is written with them gives the same bits on every ISA. NaN payloads are the exception: which
// operand's payload survives an operation is not defined.
//
// Everything has internal linkage and nothing comes from the standard library's templates: a weak
// symbol compiled for a wide ISA could be the copy that the linker keeps for the whole program.

#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#include "core/cpu/vec_avx512.h"
#elif defined(__AVX2__)
#include "core/cpu/vec_avx2.h"
#else
#include "core/cpu/vec_scalar.h"
#endif
