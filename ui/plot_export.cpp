#include "ui/plot_export.h"

#include "ui/text.h"

#include <QApplication>
#include <QClipboard>
#include <QFileDialog>
#include <QMenu>
#include <QMessageBox>
#include <QPainter>
#include <QSaveFile>
#include <QSvgGenerator>

#include <qcustomplot.h>

#include <cmath>

namespace spartan {

namespace {

QString runIdOf(const ExportTarget& t) { return t.runId ? t.runId() : QString(); }

bool writeFile(const QString& path, const QByteArray& bytes, QString* error) {
    QSaveFile file(path);
    if (file.open(QIODevice::WriteOnly) && file.write(bytes) == bytes.size() && file.commit()) return true;
    if (error) *error = QStringLiteral("%1: %2").arg(path, file.errorString());
    return false;
}

QString csvOf(const ExportTarget& t) {
    if (t.csv) return t.csv();
    const auto* plot = qobject_cast<QCustomPlot*>(t.widget);
    return plot ? plotCsv(*plot) : QString();
}

QString cell(const QString& text) { return toQ(csv_cell(toStd(text))); }

void askAndSave(QWidget* parent, const ExportTarget& target, const QString& suffix,
                const std::function<bool(const QString&, QString*)>& save) {
    QString stem = target.name;
    if (const QString run = runIdOf(target); !run.isEmpty()) stem = run + QLatin1Char('-') + stem;
    const QString path = QFileDialog::getSaveFileName(parent, QObject::tr("Export"), stem + QLatin1Char('.') + suffix,
                                                      QStringLiteral("%1 (*.%2)").arg(suffix.toUpper(), suffix));
    if (path.isEmpty()) return;
    QString error;
    if (save(path, &error)) return;
    QMessageBox box(QMessageBox::Warning, QObject::tr("Export"), QObject::tr("The file could not be written."),
                    QMessageBox::Ok, parent);
    box.setTextFormat(Qt::PlainText);
    box.setInformativeText(error);
    box.exec();
}

}  // namespace

QImage renderWidget(QWidget& widget, double scale) {
    QImage image(QSize(int(std::lround(widget.width() * scale)), int(std::lround(widget.height() * scale))),
                 QImage::Format_RGB32);
    image.fill(widget.palette().color(QPalette::Window));
    image.setDevicePixelRatio(scale);
    QPainter painter(&image);
    widget.render(&painter);
    return image;
}

bool exportPng(const ExportTarget& target, const QString& path, double scale, QString* error) {
    QImage image;
    if (auto* plot = qobject_cast<QCustomPlot*>(target.widget))
        image = plot->toPixmap(plot->width(), plot->height(), scale).toImage();
    else
        image = renderWidget(*target.widget, scale);
    image.setText(QStringLiteral("Run"), runIdOf(target));
    QByteArray bytes;
    QBuffer buffer(&bytes);
    buffer.open(QIODevice::WriteOnly);
    if (!image.save(&buffer, "PNG")) {
        if (error) *error = QObject::tr("the picture is too large");
        return false;
    }
    return writeFile(path, bytes, error);
}

bool exportSvg(const ExportTarget& target, const QString& path, QString* error) {
    QByteArray bytes;
    QBuffer buffer(&bytes);
    buffer.open(QIODevice::WriteOnly);
    const QSize size = target.widget->size();
    QSvgGenerator svg;
    svg.setOutputDevice(&buffer);
    svg.setSize(size);
    svg.setViewBox(QRect(QPoint(0, 0), size));
    svg.setResolution(96);
    svg.setTitle(target.name);
    svg.setDescription(runIdOf(target));
    if (auto* plot = qobject_cast<QCustomPlot*>(target.widget)) {
        QCPPainter painter;
        painter.begin(&svg);
        painter.setMode(QCPPainter::pmVectorized);
        painter.setMode(QCPPainter::pmNoCaching);
        plot->toPainter(&painter, size.width(), size.height());
        painter.end();
    } else {
        QPainter painter(&svg);
        target.widget->render(&painter);
    }
    return writeFile(path, bytes, error);
}

bool exportCsv(const ExportTarget& target, const QString& path, QString* error) {
    return writeFile(path, csvOf(target).toUtf8(), error);
}

QString plotCsv(const QCustomPlot& plot) {
    QString out = QStringLiteral("series,x,y\n");
    const auto line = [&](const QString& series, double x, double y) {
        out += cell(series) + QLatin1Char(',') + QString::number(x, 'g', 12) + QLatin1Char(',') +
               QString::number(y, 'g', 12) + QLatin1Char('\n');
    };
    for (int i = 0; i < plot.plottableCount(); ++i) {
        // plottable() is not const in QCustomPlot, though it changes nothing.
        QCPAbstractPlottable* p = const_cast<QCustomPlot&>(plot).plottable(i);
        if (!p->visible() || p->name().isEmpty()) continue;
        if (const auto* graph = qobject_cast<QCPGraph*>(p)) {
            for (const QCPGraphData& d : *graph->data()) line(p->name(), d.key, d.value);
        } else if (const auto* bars = qobject_cast<QCPBars*>(p)) {
            for (const QCPBarsData& d : *bars->data()) line(p->name(), d.key, d.value);
        } else if (const auto* curve = qobject_cast<QCPCurve*>(p)) {
            for (const QCPCurveData& d : *curve->data()) line(p->name(), d.key, d.value);
        }
    }
    return out;
}

bool hasCsv(const ExportTarget& target) { return target.csv || qobject_cast<QCustomPlot*>(target.widget); }

void addExportActions(QMenu& menu, QWidget* parent, const ExportTarget& target) {
    menu.addAction(QObject::tr("Copy image"), parent,
                   [target] { QApplication::clipboard()->setImage(renderWidget(*target.widget, 2)); });
    if (hasCsv(target))
        menu.addAction(QObject::tr("Copy data"), parent, [target] {
            QApplication::clipboard()->setText(csvOf(target).replace(QLatin1Char(','), QLatin1Char('\t')));
        });
    for (const int scale : {1, 2, 4})
        menu.addAction(QObject::tr("Save as PNG, %1×…").arg(scale), parent, [parent, target, scale] {
            askAndSave(parent, target, QStringLiteral("png"),
                       [&](const QString& path, QString* error) { return exportPng(target, path, scale, error); });
        });
    menu.addAction(QObject::tr("Save as SVG…"), parent, [parent, target] {
        askAndSave(parent, target, QStringLiteral("svg"),
                   [&](const QString& path, QString* error) { return exportSvg(target, path, error); });
    });
    if (hasCsv(target))
        menu.addAction(QObject::tr("Save as CSV…"), parent, [parent, target] {
            askAndSave(parent, target, QStringLiteral("csv"),
                       [&](const QString& path, QString* error) { return exportCsv(target, path, error); });
        });
}

}  // namespace spartan
