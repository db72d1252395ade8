// CHECK and DCHECK, which detect broken program logic. They are glog's; every file includes them
// from here.
#pragma once

#include <glog/logging.h>
