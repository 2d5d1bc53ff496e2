// Figure 1 of the SpartanServe paper, drawn from the adapters of a real batch: a row per adapter, a column per
// butterfly factor, each cell the boolean tiles of that factor under one common block size; the union on top, the
// folded groups that really run at the right.
#pragma once

#include "core/adapter/layout.h"
#include "core/engine/adapter_strategy.h"
#include "ui/panel.h"
#include "ui/run_model.h"

#include <QImage>
#include <QWidget>

#include <map>
#include <tuple>
#include <vector>

namespace spartan {

// One adapter in one projection of one layer, as far as the drawing needs it.
struct LayoutRow {
    AdapterId id{};
    QString name, geometry;
    int64_t in = 0, out = 0;
    int64_t block_size = 0, num_factors = 0, group = 0;  // 0: no rotation here
    int64_t rank = 0;                                    // 0: no low-rank pair here
    double orthogonality_error = 0;
    QString problem;  // why it is not drawn; empty otherwise
    bool operator==(const LayoutRow&) const = default;
};

struct LayoutSettings {
    int64_t cell = 8;  // common block size
    BlockConvention convention = BlockConvention::peft;
    AdapterStrategy strategy = AdapterStrategy::folded;  // that ran: which of the columns
    bool operator==(const LayoutSettings&) const = default;
};

class LayoutCanvas : public QWidget {
    Q_OBJECT
public:
    explicit LayoutCanvas(QWidget* parent = nullptr);
    void set(std::vector<LayoutRow> rows, LayoutSettings settings);
    // Marks the drawing as a taught example rather than a batch.
    void setCaption(const QString& caption);
    void setSelected(std::optional<AdapterId> adapter);
    QSize sizeHint() const override;
    int64_t columnsDrawn() const { return factors_; }
    // Tiles that the union of a factor covers, and what its note says; for tests and exports.
    const BlockLayout& unionOf(int64_t factor);
    const BlockLayout& foldedOf(const LayoutRow& row);
    const std::vector<LayoutRow>& rows() const { return rows_; }
    void setNotice(const QString& words);  // in place of rows: why there is nothing to draw
    const QString& notice() const { return notice_; }
    QString csv();
    QString columnTitle(int64_t column) const;

signals:
    void chosen(std::optional<AdapterId> adapter);

protected:
    void paintEvent(QPaintEvent* event) override;
    void mousePressEvent(QMouseEvent* event) override;
    void changeEvent(QEvent* event) override;
    void resizeEvent(QResizeEvent* event) override;
    bool event(QEvent* event) override;

private:
    using Key = std::tuple<int64_t, int64_t, int64_t>;  // dim, block size, factor
    const BlockLayout& layoutOf(const LayoutRow& row, int64_t factor);
    bool drawn(const LayoutRow& row) const { return row.problem.isEmpty() && row.block_size > 0; }
    double thumbnail() const;
    double textWidth() const;
    QString describe(const QPoint& position);
    QString foldedWords() const;
    double rowHeight() const;
    double columnX(int64_t column) const;
    QRectF cellRect(size_t row, int64_t column) const;
    void drawLayout(QPainter& painter, const QRectF& rect, const BlockLayout& layout, const QColor& color,
                    int64_t border);
    void drawLowRank(QPainter& painter, const QRectF& rect, const LayoutRow& row);
    void drawUnion(QPainter& painter);
    void drawRow(QPainter& painter, size_t index);
    void drawText(QPainter& painter, const QRectF& rect, const QString& title, const QStringList& lines, bool selected);

    std::vector<LayoutRow> rows_;
    LayoutSettings settings_;
    QString caption_, notice_;
    std::optional<AdapterId> selected_;
    int64_t factors_ = 1;
    std::map<Key, BlockLayout> layouts_;
    std::map<std::pair<int64_t, int64_t>, BlockLayout> folded_;
    std::map<int64_t, BlockLayout> unions_;
};

}  // namespace spartan
