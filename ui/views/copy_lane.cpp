#include "ui/views/copy_lane.h"

#include "ui/text.h"
#include "ui/theme.h"

#include <QFontMetricsF>
#include <QPainter>

#include <algorithm>

namespace spartan {

double StepAxis::xOf(int64_t us, const RunModel& model) const {
    // Records follow each other by their ends.
    const auto& steps = model.steps();
    const auto from = steps.begin() + (first - steps.front().step),
               to = steps.begin() + (last + 1 - steps.front().step);
    const auto at = std::lower_bound(from, to, us, [](const StepSummary& s, int64_t t) { return s.end_us < t; });
    if (at == to) return width();
    const double left = double(at - from) * bar;
    const int64_t before = at == steps.begin() ? at->start_us : std::max(at->start_us, std::prev(at)->end_us);
    if (us <= before || at->end_us <= before) return left;
    return left + bar * double(us - before) / double(at->end_us - before);
}

std::vector<CopyLane::Box> CopyLane::boxes(const RunModel& model, const StepAxis& axis, const QRectF& place) {
    std::vector<Box> out;
    const StepSummary *first = model.summary(axis.first), *last = model.summary(axis.last);
    if (!first || !last) return out;
    const auto& copies = model.copies();
    // A copy is told of in the step that saw it end, or later.
    auto it = std::lower_bound(copies.begin(), copies.end(), axis.first,
                               [](const AdapterCopy& c, int64_t step) { return c.step < step; });
    for (; it != copies.end(); ++it) {
        const bool timed = it->begin_us >= 0;
        if (it->step > axis.last && (!timed || it->begin_us > last->end_us)) break;
        if (timed && (it->end_us() < first->start_us || it->begin_us > last->end_us)) continue;
        const double x0 = timed ? axis.xOf(it->begin_us, model) : double(it->step - axis.first) * axis.bar;
        const double x1 = timed ? axis.xOf(it->end_us(), model) : x0 + axis.bar - 1;
        const double wide = std::max(x1 - x0, 2.0), x = std::min(x0, std::max(0.0, axis.width() - wide));
        out.push_back({QRectF(place.left() + x, place.top(), wide, place.height()), &*it});
    }
    return out;
}

QString CopyLane::emptyWords(const RunModel& model) {
    if (!model.copies().empty()) return QObject::tr("no adapter was copied during these steps");
    return model.header().gpu ? QObject::tr("no adapter has been copied to the device")
                              : QObject::tr("no adapter has been copied into the pool");
}

void CopyLane::paint(QPainter& painter, const RunModel& model, const StepAxis& axis, const QRectF& place,
                     const Colors& colors) {
    const std::vector<Box> all = boxes(model, axis, place);
    for (const Box& box : all) {
        // A line of the ground between neighbours, where there is room for it.
        QRectF r = box.rect;
        if (r.width() > 4) r.setWidth(r.width() - 1);
        const bool timed = box.copy->begin_us >= 0;
        painter.fillRect(r, timed ? QBrush(colors.transfer) : QBrush(colors.transfer, Qt::Dense4Pattern));
    }
    if (!all.empty()) return;
    painter.setFont(uiFont(10));
    painter.setPen(colors.faint);
    painter.drawText(place, Qt::AlignLeft | Qt::AlignVCenter,
                     fitFacts(QFontMetricsF(painter.font()), emptyWords(model), place.width()));
}

QString copySentence(const AdapterCopy& copy, const RunModel& model) {
    const QString name = oneLine(model.adapterName(copy.adapter), 60);
    QString text = model.header().gpu ? QObject::tr("%1 · %2 from host memory to the device")
                                      : QObject::tr("%1 · %2 from host memory into the pool");
    text = text.arg(name, bytesText(copy.bytes));
    if (copy.us > 0) {
        const double seconds = double(copy.us) / 1e6;
        text +=
            QObject::tr(" in %1, %2/s").arg(msText(seconds * 1e3), bytesText(int64_t(double(copy.bytes) / seconds)));
    }
    if (copy.begin_us < 0) return text + QObject::tr("\nwhen it began was not recorded");
    return text + QObject::tr("\nfrom %1 to %2, told of in step %3")
                      .arg(secondsText(double(copy.begin_us) / 1e6), secondsText(double(copy.end_us()) / 1e6),
                           count(copy.step));
}

}  // namespace spartan
