# Writes OUT, a C source that holds the bytes of IN as `const char SYMBOL[]`, ended by a NUL that SYMBOL_len leaves out.
file(READ ${IN} hex HEX)
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "'\\\\x\\1'," bytes "${hex}")
file(WRITE ${OUT} "#include <stddef.h>\nextern const char ${SYMBOL}[];\nextern const size_t ${SYMBOL}_len;\n"
  "const char ${SYMBOL}[] = {${bytes}'\\0'};\nconst size_t ${SYMBOL}_len = sizeof ${SYMBOL} - 1;\n")
