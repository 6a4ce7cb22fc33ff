/* The store's model test, shorter, under TSan: the loop changes rows while the checkpoint thread reads frozen ones. */
#define STEPS 4000
#include "test_store_model.c"
