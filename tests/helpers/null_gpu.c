// SPDX-License-Identifier: Apache-2.0
// What MindSpore's GPU plugin asks CUDA's libraries, answered as by a card of compute capability 9.0 with 8 GB, of which
// there are two; null_gpu.py makes all their other functions, which succeed and do nothing. The card's memory is the
// host's. emulated_driver.cc has the functions that the project's own kernels are launched with.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
static intptr_t handles = 0;
static int handle(void **p) { *p = (void *)(++handles * 256); return 0; }
static int room(void **p) { *p = calloc(1, 4096); return 0; }
int cuDeviceGetAttribute(int *v, int a, int d) { *v = a == 75 ? 9 : a == 76 ? 0 : a == 16 ? 132 : 1024; return 0; }
int cuGetErrorName(int e, const char **s) { *s = "error"; return 0; }
int cuModuleLoadDataEx(void **m, const void *i, unsigned n, void *o, void *v) { return handle(m); }
int cuDeviceGetCount(int *n) { *n = 2; return 0; }
int cuDriverGetVersion(int *v) { *v = 12020; return 0; }
int cuInit(unsigned f) { return 0; }
int cudaGetDeviceCount(int *n) { *n = 2; return 0; }
int cudaGetDeviceProperties(char *p, int d) {
  memset(p, 0, 712);
  strcpy(p, "Null GPU");
  *(size_t *)(p + 288) = (size_t)8 << 30;                       /* totalGlobalMem */
  *(size_t *)(p + 296) = 49152;                                 /* sharedMemPerBlock */
  *(int *)(p + 304) = 65536, *(int *)(p + 308) = 32;            /* regsPerBlock, warpSize */
  *(int *)(p + 320) = 1024;                                     /* maxThreadsPerBlock */
  int *dims = (int *)(p + 324);                                 /* maxThreadsDim, maxGridSize */
  dims[0] = dims[1] = 1024, dims[2] = 64, dims[3] = 2147483647, dims[4] = dims[5] = 65535;
  *(int *)(p + 360) = 9, *(int *)(p + 364) = 0;                 /* major, minor */
  *(int *)(p + 388) = 132;                                      /* multiProcessorCount */
  *(int *)(p + 624) = 2048;                                     /* maxThreadsPerMultiProcessor */
  return 0;
}
const char *cudaGetErrorName(int e) { return "error"; }
const char *cudaGetErrorString(int e) { return "error"; }
int cudaMalloc(void **p, size_t n) { *p = calloc(1, n ? n : 1); return *p ? 0 : 2; }
int cudaFree(void *p) { free(p); return 0; }
int cudaHostAlloc(void **p, size_t n, unsigned f) { return cudaMalloc(p, n); }
int cudaFreeHost(void *p) { return cudaFree(p); }
int cudaMemGetInfo(size_t *f, size_t *t) { *f = (size_t)6 << 30, *t = (size_t)8 << 30; return 0; }
int cudaMemcpy(void *d, const void *s, size_t n, int k) { if (n) memmove(d, s, n); return 0; }
/* From one place on the card to another (kind 3) takes the host no time: left out where nothing is computed. */
static long copies[5], copied_bytes[5], waits;
long null_gpu_copies(int kind) { return copies[kind]; }
long null_gpu_copied_bytes(int kind) { return copied_bytes[kind]; }
long null_gpu_waits(void) { return waits; }
int cudaStreamSynchronize(void *st) { ++waits; return 0; }
int cudaMemcpyAsync(void *d, const void *s, size_t n, int k, void *st) {
  static int computes = -1;
  ++copies[k], copied_bytes[k] += n;
  if (computes < 0) computes = getenv("NULL_GPU_COMPUTES") != NULL;
  return k == 3 && !computes ? 0 : cudaMemcpy(d, s, n, k);
}
int cudaMemset(void *d, int v, size_t n) { memset(d, v, n); return 0; }
int cudaMemsetAsync(void *d, int v, size_t n, void *st) { return cudaMemset(d, v, n); }
int cudaStreamCreate(void **s) { return handle(s); }
int cudaStreamCreateWithFlags(void **s, unsigned f) { return handle(s); }
int cudaStreamCreateWithPriority(void **s, unsigned f, int p) { return handle(s); }
int cudaEventCreate(void **s) { return handle(s); }
int cudaEventCreateWithFlags(void **s, unsigned f) { return handle(s); }
int cudaEventElapsedTime(float *t, void *a, void *b) { *t = 1; return 0; }
int nvrtcVersion(int *a, int *b) { *a = 11, *b = 8; return 0; }
int nvrtcGetNumSupportedArchs(int *n) { *n = 1; return 0; }
int nvrtcGetSupportedArchs(int *a) { *a = 90; return 0; }
int nvrtcCreateProgram(void **p, const char *s, const char *n, int k, const char **h, const char **i) { return handle(p); }
int nvrtcCompileProgram(void *p, int n, const char **o) { return 0; }
int nvrtcDestroyProgram(void **p) { return 0; }
int nvrtcGetCUBINSize(void *p, size_t *n) { *n = 5; return 0; }
int nvrtcGetCUBIN(void *p, char *c) { strcpy(c, "null"); return 0; }
int cublasGetMathMode(void *h, int *m) { *m = 0; return 0; }
int curandCreateGenerator(void **p, int t) { return room(p); }
int cufftCreate(int *p) { *p = 1; return 0; }
const char *cudnnGetErrorString(int e) { return "error"; }
typedef struct { int type, n, d[8]; } Shape;
static int keep(Shape *x, int type, int n, const int *d) {
  x->type = type, x->n = n;
  for (int i = 0; i < n && i < 8; i++) x->d[i] = d[i];
  return 0;
}
static int four(Shape *x, int t, int n, int c, int h, int w) { int d[] = {n, c, h, w}; return keep(x, t, 4, d); }
static int bytes(Shape *x, size_t *s) {
  *s = x->n ? (x->type == 1 ? 8 : x->type == 2 || x->type == 9 ? 2 : x->type == 3 ? 1 : 4) : 0;
  for (int i = 0; i < x->n && i < 8; i++) *s *= x->d[i];
  return 0;
}
int cudnnSetTensor4dDescriptor(Shape *x, int f, int t, int n, int c, int h, int w) { return four(x, t, n, c, h, w); }
int cudnnSetFilter4dDescriptor(Shape *x, int t, int f, int n, int c, int h, int w) { return four(x, t, n, c, h, w); }
int cudnnSetTensorNdDescriptor(Shape *x, int t, int n, const int *d, const int *s) { return keep(x, t, n, d); }
int cudnnSetTensorNdDescriptorEx(Shape *x, int f, int t, int n, const int *d) { return keep(x, t, n, d); }
int cudnnSetFilterNdDescriptor(Shape *x, int t, int f, int n, const int *d) { return keep(x, t, n, d); }
int cudnnGetTensorSizeInBytes(Shape *x, size_t *s) { return bytes(x, s); }
int cudnnGetFilterSizeInBytes(Shape *x, size_t *s) { return bytes(x, s); }
typedef struct { int algo, status; float time; size_t memory; int determinism, math, reserved[3]; } Perf;
#define ALGORITHM(name) int name(void *h, void *a, void *b, void *c, void *d, int r, int *n, Perf *p) \
  { memset(p, 0, sizeof *p); *n = 1, p->algo = 1, p->time = 1; return 0; }
#define WORKSPACE(name) int name(void *h, void *a, void *b, void *c, void *d, int g, size_t *s) { *s = 0; return 0; }
ALGORITHM(cudnnFindConvolutionForwardAlgorithm) ALGORITHM(cudnnGetConvolutionForwardAlgorithm_v7)
ALGORITHM(cudnnFindConvolutionBackwardDataAlgorithm) ALGORITHM(cudnnGetConvolutionBackwardDataAlgorithm_v7)
ALGORITHM(cudnnFindConvolutionBackwardFilterAlgorithm) ALGORITHM(cudnnGetConvolutionBackwardFilterAlgorithm_v7)
WORKSPACE(cudnnGetConvolutionForwardWorkspaceSize) WORKSPACE(cudnnGetConvolutionBackwardDataWorkspaceSize)
WORKSPACE(cudnnGetConvolutionBackwardFilterWorkspaceSize)
int cudnnGetReductionWorkspaceSize(void *h, void *r, void *a, void *c, size_t *s) { *s = 0; return 0; }
int cudnnGetReductionIndicesSize(void *h, void *r, void *a, void *c, size_t *s) { *s = 0; return 0; }
int cudnnDropoutGetStatesSize(void *h, size_t *s) { *s = 0; return 0; }
