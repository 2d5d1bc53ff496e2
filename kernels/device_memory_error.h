// Memory of a device was asked for and refused. Unlike its base, which means that the device is lost, nothing has
// happened: whoever asked can do with less, or not at all.
#pragma once

#include "kernels/device.h"

namespace spartan {

struct OutOfDeviceMemory : DeviceError {
    using DeviceError::DeviceError;
};

}  // namespace spartan
