/* What is found must not look like an ordinary failure of the executable, which ends with 1 as well. */

const char *__asan_default_options(void);

const char *__asan_default_options(void)
{
    return "abort_on_error=1:detect_leaks=0";
}
