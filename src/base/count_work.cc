// Builds with AddressSanitizer count the work of some libraries (pando_count_work in cmake/PandoTargets.cmake) by a
// function that g++ has them call. The test that counts has its own; everything else gets this one.
#if defined(__SANITIZE_ADDRESS__)
extern "C" __attribute__((weak)) void __sanitizer_cov_trace_pc() {}
#endif
