// The views of a run, made by name, so that the window and the screenshots know one list.
#pragma once

#include "ui/panel.h"

#include <QString>

namespace spartan {

// "latency", "memory", "layout", "steps", "step-detail". Each call makes a new one (a view can sit in two
// perspectives). Null when the name is not known.
Panel* makeRunView(const QString& id, const ViewContext& context, QWidget* parent = nullptr);

}  // namespace spartan
