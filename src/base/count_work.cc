// In builds with AddressSanitizer, some libraries call this function in every basic block
// (pando_count_work in cmake/PandoTargets.cmake). The test that counts the calls defines its own
// version. All other programs get this empty one.
#if defined(__SANITIZE_ADDRESS__)
extern "C" __attribute__((weak)) void __sanitizer_cov_trace_pc() {}
#endif
