/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FEWSTEP_VERSION_H_
#define FEWSTEP_VERSION_H_

/* The only place the version is written: CMake and the wheel read it from here. */
#define FEWSTEP_VERSION "0.1.0"

#endif
