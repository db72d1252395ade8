// CHECK and DCHECK for broken program logic: glog's, included from one place.
#pragma once

#include <glog/logging.h>
