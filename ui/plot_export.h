// Any plot or panel as PNG, SVG or CSV, stamped with the run it shows.
#pragma once

#include <QImage>
#include <QString>

#include <functional>

class QCustomPlot;
class QMenu;
class QWidget;

namespace spartan {

struct ExportTarget {
    QString name;                    // file name stem: "latency-ttft"
    QWidget* widget = nullptr;       // what is drawn; a QCustomPlot is exported as vectors
    std::function<QString()> csv;    // empty: taken from the QCustomPlot's data
    std::function<QString()> runId;  // may be empty
};

QImage renderWidget(QWidget& widget, double scale);
bool exportPng(const ExportTarget& target, const QString& path, double scale, QString* error);
bool exportSvg(const ExportTarget& target, const QString& path, QString* error);
bool exportCsv(const ExportTarget& target, const QString& path, QString* error);
// "series,x,y" lines of all graphs, curves and bars that are visible.
QString plotCsv(const QCustomPlot& plot);
bool hasCsv(const ExportTarget& target);

// Copy image, copy data, save as …; asks for the file name beside `parent` and reports errors there.
void addExportActions(QMenu& menu, QWidget* parent, const ExportTarget& target);

}  // namespace spartan
