#include "ui/views/views.h"

#include "ui/views/latency_view.h"
#include "ui/views/layout_view.h"
#include "ui/views/memory_view.h"
#include "ui/views/step_detail_view.h"
#include "ui/views/steps_view.h"

namespace spartan {

Panel* makeRunView(const QString& id, const ViewContext& context, QWidget* parent) {
    if (id == QLatin1String("latency")) return new LatencyView(context, parent);
    if (id == QLatin1String("memory")) return new MemoryView(context, parent);
    if (id == QLatin1String("layout")) return new LayoutView(context, parent);
    if (id == QLatin1String("steps")) return new StepsView(context, parent);
    if (id == QLatin1String("step-detail")) return new StepDetailView(context, parent);
    return nullptr;
}

}  // namespace spartan
