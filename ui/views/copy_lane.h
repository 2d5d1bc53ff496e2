// The lane of adapter copies under the steps: each where it began and ended, on an axis on which every step is as wide
// as the next.
#pragma once

#include "ui/panel.h"
#include "ui/run_model.h"

#include <QRectF>
#include <QString>

#include <vector>

class QPainter;

namespace spartan {

// Steps [first, last] side by side from x = 0, `bar` pixels each.
struct StepAxis {
    int64_t first = 0, last = -1;
    double bar = 8;

    // Where a moment of the engine's clock lies. Within a step time runs evenly; what lies between two steps has no
    // width. Before the first and after the last: the ends.
    double xOf(int64_t us, const RunModel& model) const;
    double width() const { return double(last - first + 1) * bar; }
};

class CopyLane {
public:
    struct Box {
        QRectF rect;
        const AdapterCopy* copy = nullptr;  // until the model changes
    };
    // The copies that ran during these steps, in a lane that lies in `place`. Those whose times were not recorded stand
    // in the step that told of them.
    static std::vector<Box> boxes(const RunModel& model, const StepAxis& axis, const QRectF& place);
    // What the lane says where it is empty.
    static QString emptyWords(const RunModel& model);
    static void paint(QPainter& painter, const RunModel& model, const StepAxis& axis, const QRectF& place,
                      const Colors& colors);
};

// "pirate · 201 MB to the device in 8.1 ms, 24.8 GB/s\nfrom 1.204 s to 1.212 s"
QString copySentence(const AdapterCopy& copy, const RunModel& model);

}  // namespace spartan
