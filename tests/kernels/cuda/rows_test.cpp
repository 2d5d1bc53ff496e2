// Row operations on the GPU against double precision: both storage types, odd sizes, adapters' gains, biases and norm
// weights by tile, and the same bits for a row whatever the number of rows.
#include "kernels/cuda/rows.h"
#include "gpu_fixture.h"

#include <cmath>
#include <functional>
#include <limits>
#include <string>

using namespace spartan;

namespace {

// "" when every value is within one rounding to T (and a little of fp32's own) of what is wanted.
template <class T>
std::string mismatch(const std::vector<T>& got, const std::vector<double>& want, const std::string& name) {
    constexpr double kRelative = std::is_same_v<T, float> ? 1e-5 : 1. / 250, kAbsolute = 1e-5;
    if (got.size() != want.size()) return name + ": sizes differ";
    for (size_t i = 0; i < want.size(); ++i)
        if (!(std::abs(double(to_float(got[i])) - want[i]) <= kRelative * std::abs(want[i]) + kAbsolute))
            return text_of(name, " [", i, "] got ", to_float(got[i]), ", want ", want[i]);
    return "";
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

template <class T>
const char* type_name() {
    return name_of(dtype_of<T>);
}

// From 8-wide in registers, one chunk and two, to plain ones, short and long.
const std::vector<int64_t> kDims = cases<std::vector<int64_t>>({1, 17, 576, 4096, 4100, 8192, 8200, 16384, 16392},
                                                               {17, 576, 4100, 8192, 16384, 16392});
const std::vector<int64_t> kRows = cases<std::vector<int64_t>>({0, 1, 3, 70}, {1, 35});

// A batch of 70 rows in tiles: an adapter with everything, the base, an empty tile, an adapter with nothing here, one
// with a gain, one with a bias, and empty tiles behind them. Rows 60 to 69 are in no tile. Adapters have two layers of
// parts.
struct Adapters {
    static constexpr int64_t kRowsInTiles = 60;
    int64_t dim;
    std::vector<float> gain, bias, other_gain, norm, base_bias;
    DeviceArray<float> device_gain, device_bias, device_other_gain, device_norm, device_base_bias;
    std::vector<CudaPart> both, none, only_gain, only_bias;
    DeviceArray<CudaPart> device_both, device_none, device_only_gain, device_only_bias;
    std::vector<CudaTile> tiles;
    DeviceArray<CudaTile> device_tiles;
    std::vector<const float*> own_norms;
    DeviceArray<const float*> device_own_norms;

    enum Part { kBare = 3, kGate = 4, kUp = 7 + 5 };

    static std::vector<CudaPart> parts(const float* gate_gain, const float* gate_bias, const float* up_gain) {
        std::vector<CudaPart> p(14);
        p[kGate].gain = gate_gain;
        p[kGate].bias = gate_bias;
        p[kUp].gain = up_gain;
        return p;
    }

    explicit Adapters(int64_t dim_)
        : dim(dim_),
          gain(random_values<float>(size_t(dim), 1)),
          bias(random_values<float>(size_t(dim), 2)),
          other_gain(random_values<float>(size_t(dim), 3)),
          norm(random_values<float>(size_t(dim), 4)),
          base_bias(random_values<float>(size_t(dim), 5)),
          device_gain(gain),
          device_bias(bias),
          device_other_gain(other_gain),
          device_norm(norm),
          device_base_bias(base_bias),
          both(parts(device_gain.data(), device_bias.data(), device_other_gain.data())),
          none(14),
          only_gain(parts(device_other_gain.data(), nullptr, device_gain.data())),
          only_bias(parts(nullptr, device_bias.data(), nullptr)),
          device_both(both),
          device_none(none),
          device_only_gain(only_gain),
          device_only_bias(only_bias),
          tiles{{device_both.data(), 0, 1},       {nullptr, 1, 9},
                {device_both.data(), 10, 0},      {device_none.data(), 10, 20},
                {device_only_gain.data(), 30, 3}, {device_only_bias.data(), 33, 27},
                {device_both.data(), 60, 0},      {nullptr, 0, 0}},
          device_tiles(tiles),
          own_norms{device_norm.data(), nullptr, nullptr, nullptr, device_norm.data(), nullptr,
                    device_norm.data(), nullptr},
          device_own_norms(own_norms) {}

    RowTiles row_tiles() const { return {device_tiles.data(), int64_t(tiles.size())}; }
    TileNorms tile_norms() const { return {row_tiles(), device_own_norms.data()}; }

    bool in(int64_t row, size_t tile) const {
        return row >= tiles[tile].row_begin && row < tiles[tile].row_begin + tiles[tile].rows;
    }
    bool has_own_norm(int64_t row) const { return in(row, 0) || in(row, 4); }

    // y after the change of part `part`, with the base's bias or without.
    double changed(double y, int64_t row, int64_t column, Part part, bool with_base_bias) const {
        const auto c = size_t(column);
        const float* gains = nullptr;
        const float* biases = with_base_bias ? base_bias.data() : nullptr;
        if (part == kGate) {
            if (in(row, 0)) gains = gain.data(), biases = bias.data();
            if (in(row, 4)) gains = other_gain.data();
            if (in(row, 5)) biases = bias.data();
        } else if (part == kUp) {
            if (in(row, 0)) gains = other_gain.data();
            if (in(row, 4)) gains = gain.data();
        }
        return y * (gains ? double(gains[c]) : 1.) + (biases ? double(biases[c]) : 0.);
    }
};

std::vector<double> normed(const std::vector<double>& x, const std::function<double(int64_t, int64_t)>& weight,
                           int64_t rows, int64_t dim, double eps) {
    std::vector<double> out(x.size());
    for (int64_t t = 0; t < rows; ++t) {
        double squares = 0;
        for (int64_t i = 0; i < dim; ++i) squares += x[size_t(t * dim + i)] * x[size_t(t * dim + i)];
        for (int64_t i = 0; i < dim; ++i)
            out[size_t(t * dim + i)] = x[size_t(t * dim + i)] / std::sqrt(squares / double(dim) + eps) * weight(t, i);
    }
    return out;
}

double gate_value(GateKind kind, double v) {
    switch (kind) {
        case GateKind::silu:
            return v / (1 + std::exp(-v));
        case GateKind::gelu:
            return v / 2 * (1 + std::erf(v / std::sqrt(2.)));
        case GateKind::gelu_tanh:
            return v / 2 * (1 + std::tanh(std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v)));
    }
    return NAN;
}

template <class T>
std::vector<double> widened(const std::vector<T>& values) {
    std::vector<double> wide;
    for (const T& v : values) wide.push_back(double(to_float(v)));
    return wide;
}

// x + multiplier * delta in float, each step rounded.
template <class T>
std::vector<float> added(const std::vector<float>& x, const std::vector<T>& delta, float multiplier) {
    std::vector<float> sum;
    for (size_t i = 0; i < x.size(); ++i) {
        const float product = multiplier * to_float(delta[i]);
        sum.push_back(x[i] + product);
    }
    return sum;
}

constexpr float kEps = 1e-5f;

}  // namespace

class CudaRowsTest : public QObject {
    Q_OBJECT

    template <class T>
    void gather_() {
        CudaDevice device;
        for (const int64_t dim : cases<std::vector<int64_t>>({1, 17, 576, 4096}, {17, 576})) {
            constexpr int64_t kVocab = 50;
            const auto table = random_values<T>(size_t(kVocab * dim), 7);
            const DeviceArray<T> device_table(table);
            for (const int64_t rows : kRows)
                for (const float multiplier : {1.f, 12.5f}) {
                    std::vector<int32_t> ids;
                    std::vector<float> want;
                    for (int64_t t = 0; t < rows; ++t) {
                        ids.push_back(int32_t(t * 31 % kVocab));
                        for (int64_t i = 0; i < dim; ++i)
                            want.push_back(to_float(table[size_t(ids.back() * dim + i)]) * multiplier);
                    }
                    const DeviceArray<int32_t> device_ids(ids);
                    DeviceArray<float> x(size_t(rows * dim));
                    gather_rows(device, x.data(), device_table.data(), device_ids.data(), multiplier, rows, dim);
                    QVERIFY(same_bits(x.read(), want));
                }
        }
    }

    template <class T>
    void norm_() {
        CudaDevice device;
        for (const int64_t dim : kDims) {
            const Adapters adapters(dim);
            const auto weight = random_values<float>(size_t(dim), 8);
            const DeviceArray<float> device_weight(weight);
            for (const int64_t rows : kRows) {
                const auto name = text_of("norm ", type_name<T>(), " rows ", rows, " dim ", dim);
                const auto x = random_values<float>(size_t(rows * dim), 9, 3);
                const DeviceArray<float> device_x(x);
                for (const bool own : {false, true}) {
                    const TileNorms norms = own ? adapters.tile_norms() : TileNorms{};
                    const auto weight_of = [&](int64_t t, int64_t i) {
                        return double((own && adapters.has_own_norm(t) ? adapters.norm : weight)[size_t(i)]);
                    };
                    DeviceArray<T> out(size_t(rows * dim));
                    rms_norm(device, out.data(), device_x.data(), device_weight.data(), kEps, rows, dim, norms);
                    const std::vector<T> all = out.read();
                    VERIFY_RIGHT(mismatch(all, normed(widened(x), weight_of, rows, dim, kEps), name));
                    // The rows in reverse order, each twice: the same bits.
                    std::vector<int32_t> index;
                    std::vector<T> want;
                    for (int64_t t = rows - 1; t >= 0; --t)
                        for (int twice = 0; twice < 2; ++twice) {
                            index.push_back(int32_t(t));
                            want.insert(want.end(), all.begin() + t * dim, all.begin() + (t + 1) * dim);
                        }
                    const DeviceArray<int32_t> device_index(index);
                    DeviceArray<T> picked(want.size());
                    rms_norm_of_rows(device, picked.data(), device_x.data(), device_index.data(), device_weight.data(),
                                     kEps, int64_t(index.size()), dim, norms);
                    QVERIFY2(same_bits(picked.read(), want), name.c_str());
                }
                if (rows == 0) continue;
                DeviceArray<T> last(static_cast<size_t>(dim));  // a row alone: the same bits
                rms_norm(device, last.data(), device_x.data() + (rows - 1) * dim, device_weight.data(), kEps, 1, dim);
                DeviceArray<T> all(size_t(rows * dim));
                rms_norm(device, all.data(), device_x.data(), device_weight.data(), kEps, rows, dim);
                const std::vector<T> values = all.read();
                QVERIFY2(same_bits(last.read(), {values.end() - dim, values.end()}), name.c_str());
            }
        }
    }

    template <class T>
    void add_norm_() {
        CudaDevice device;
        for (const int64_t dim : kDims) {
            const auto weight = random_values<float>(size_t(dim), 10);
            const DeviceArray<float> device_weight(weight);
            for (const int64_t rows : kRows)
                for (const float multiplier : {1.f, 0.22f}) {
                    const auto name = text_of("add, norm ", type_name<T>(), " rows ", rows, " dim ", dim);
                    const auto x = random_values<float>(size_t(rows * dim), 11, 3);
                    const auto delta = random_values<T>(size_t(rows * dim), 12);
                    const DeviceArray<float> device_x(x), other_x(x);
                    const DeviceArray<T> device_delta(delta);
                    DeviceArray<T> out(size_t(rows * dim));
                    add_rms_norm(device, out.data(), device_x.data(), device_delta.data(), multiplier,
                                 device_weight.data(), kEps, rows, dim);
                    add_rows(device, other_x.data(), device_delta.data(), multiplier, rows, dim);
                    const std::vector<float> sum = added(x, delta, multiplier);
                    QVERIFY2(same_bits(device_x.read(), sum), name.c_str());
                    QVERIFY2(same_bits(other_x.read(), sum), name.c_str());
                    const auto weight_of = [&](int64_t, int64_t i) { return double(weight[size_t(i)]); };
                    const std::vector<T> normed_sum = out.read();
                    VERIFY_RIGHT(mismatch(normed_sum, normed(widened(sum), weight_of, rows, dim, kEps), name));
                    DeviceArray<T> apart(size_t(rows * dim));  // fused or not: the same bits
                    rms_norm(device, apart.data(), other_x.data(), device_weight.data(), kEps, rows, dim);
                    QVERIFY2(same_bits(apart.read(), normed_sum), name.c_str());
                    const DeviceArray<float> third_x(x);  // over delta
                    add_rms_norm(device, device_delta.data(), third_x.data(), device_delta.data(), multiplier,
                                 device_weight.data(), kEps, rows, dim);
                    QVERIFY2(same_bits(device_delta.read(), normed_sum), name.c_str());
                }
        }
    }

    template <class T>
    void add_changed_() {
        CudaDevice device;
        for (const int64_t dim : cases<std::vector<int64_t>>({17, 4096, 16384, 16392}, {17, 4096, 16392})) {
            constexpr int64_t kBatch = 70;
            const Adapters adapters(dim);
            const auto weight = random_values<float>(size_t(dim), 13),
                       x = random_values<float>(size_t(kBatch * dim), 14);
            const auto delta = random_values<T>(size_t(kBatch * dim), 15);
            const DeviceArray<float> device_weight(weight);
            const DeviceArray<T> device_delta(delta);
            for (const bool based : {false, true})
                for (const auto part : {Adapters::kBare, Adapters::kGate, Adapters::kUp}) {
                    const auto name = text_of("changed ", type_name<T>(), " dim ", dim, " part ", int(part));
                    const OutputChange change{part, based ? adapters.device_base_bias.data() : nullptr};
                    std::vector<double> sum;
                    for (int64_t t = 0; t < kBatch; ++t)
                        for (int64_t i = 0; i < dim; ++i) {
                            const auto at = size_t(t * dim + i);
                            sum.push_back(double(x[at]) +
                                          0.5 * adapters.changed(double(to_float(delta[at])), t, i, part, based));
                        }
                    const DeviceArray<float> fused_x(x), other_x(x);
                    DeviceArray<T> out(size_t(kBatch * dim));
                    add_rms_norm(device, out.data(), fused_x.data(), device_delta.data(), 0.5f, device_weight.data(),
                                 kEps, kBatch, dim, adapters.tile_norms(), change);
                    add_rows(device, other_x.data(), device_delta.data(), 0.5f, kBatch, dim, adapters.row_tiles(),
                             change);
                    VERIFY_RIGHT(mismatch(fused_x.read(), sum, name));
                    QVERIFY2(same_bits(fused_x.read(), other_x.read()), name.c_str());
                    const auto weight_of = [&](int64_t t, int64_t i) {
                        return double((adapters.has_own_norm(t) ? adapters.norm : weight)[size_t(i)]);
                    };
                    VERIFY_RIGHT(mismatch(out.read(), normed(sum, weight_of, kBatch, dim, kEps), name));
                }
        }
    }

    template <class T>
    void gate_() {
        CudaDevice device;
        for (const int64_t dim : cases<std::vector<int64_t>>({1, 17, 1536, 4100, 11008}, {17, 1536})) {
            const Adapters adapters(dim);
            for (const int64_t rows : kRows) {
                auto gate = random_values<T>(size_t(rows * dim), 16, 4);
                const auto up = random_values<T>(size_t(rows * dim), 17);
                for (size_t i = 0; i < gate.size() && i < 4; ++i) gate[i] = from_float<T>(i % 2 ? -150.f : 150.f);
                const DeviceArray<T> device_up(up);
                for (const auto kind : {GateKind::silu, GateKind::gelu, GateKind::gelu_tanh})
                    for (const bool adapted : {false, true}) {
                        const auto name =
                            text_of("gate ", int(kind), " ", type_name<T>(), " rows ", rows, " dim ", dim);
                        std::vector<double> want;
                        for (int64_t t = 0; t < rows; ++t)
                            for (int64_t i = 0; i < dim; ++i) {
                                double g = double(to_float(gate[size_t(t * dim + i)]));
                                double u = double(to_float(up[size_t(t * dim + i)]));
                                if (adapted) {
                                    g = adapters.changed(g, t, i, Adapters::kGate, true);
                                    u = adapters.changed(u, t, i, Adapters::kUp, false);
                                }
                                want.push_back(gate_value(kind, g) * u);
                            }
                        const RowTiles tiles = adapted ? adapters.row_tiles() : RowTiles{};
                        const OutputChange gate_change =
                            adapted ? OutputChange{Adapters::kGate, adapters.device_base_bias.data()} : OutputChange{};
                        const OutputChange up_change = adapted ? OutputChange{Adapters::kUp, nullptr} : OutputChange{};
                        const DeviceArray<T> device_gate(gate);
                        DeviceArray<T> out(size_t(rows * dim));
                        gate_mul(device, out.data(), device_gate.data(), device_up.data(), kind, rows, dim, tiles,
                                 gate_change, up_change);
                        VERIFY_RIGHT(mismatch(out.read(), want, name));
                        gate_mul(device, device_gate.data(), device_gate.data(), device_up.data(), kind, rows, dim,
                                 tiles, gate_change, up_change);  // in place
                        QVERIFY2(same_bits(device_gate.read(), out.read()), name.c_str());
                    }
            }
        }
    }

private slots:
    void gather() {
        SKIP_WITHOUT_GPU();
        gather_<float>();
        gather_<bf16>();
        gather_<f16>();
    }
    void norm() {
        SKIP_WITHOUT_GPU();
        norm_<float>();
        norm_<bf16>();
        norm_<f16>();
    }
    void addNorm() {
        SKIP_WITHOUT_GPU();
        add_norm_<float>();
        add_norm_<bf16>();
        add_norm_<f16>();
    }
    void addChanged() {
        SKIP_WITHOUT_GPU();
        add_changed_<float>();
        add_changed_<bf16>();
        add_changed_<f16>();
    }
    void gateMul() {
        SKIP_WITHOUT_GPU();
        gate_<float>();
        gate_<bf16>();
        gate_<f16>();
    }
    void normInPlace() {
        SKIP_WITHOUT_GPU();
        CudaDevice device;
        for (const int64_t dim : {576, 577}) {
            const auto x = random_values<float>(size_t(3 * dim), 20), weight = random_values<float>(size_t(dim), 21);
            const DeviceArray<float> device_x(x), device_weight(weight);
            DeviceArray<float> out(size_t(3 * dim));
            rms_norm(device, out.data(), device_x.data(), device_weight.data(), kEps, 3, dim);
            rms_norm(device, device_x.data(), device_x.data(), device_weight.data(), kEps, 3, dim);
            QVERIFY(same_bits(out.read(), device_x.read()));
        }
    }
    // A NaN stays in its row.
    void notANumber() {
        SKIP_WITHOUT_GPU();
        CudaDevice device;
        constexpr int64_t kDim = 4096;
        auto x = random_values<float>(3 * kDim, 22);
        x[kDim + 5] = std::numeric_limits<float>::quiet_NaN();
        const DeviceArray<float> device_x(x), weight(random_values<float>(kDim, 23));
        DeviceArray<bf16> out(3 * kDim);
        rms_norm(device, out.data(), device_x.data(), weight.data(), kEps, 3, kDim);
        const std::vector<bf16> values = out.read();
        for (size_t i = 0; i < values.size(); ++i) QCOMPARE(std::isnan(to_float(values[i])), i / size_t(kDim) == 1);
    }
    void scaled() {
        SKIP_WITHOUT_GPU();
        CudaDevice device;
        for (const size_t count : {size_t(0), size_t(1), size_t(1003), size_t(49152) * 3}) {
            auto x = random_values<float>(count, 24);
            const DeviceArray<float> device_x(x);
            scale(device, device_x.data(), 0.3f, int64_t(count));
            for (float& v : x) v *= 0.3f;
            QVERIFY(same_bits(device_x.read(), x));
        }
    }
};

QTEST_GUILESS_MAIN(CudaRowsTest)
#include "rows_test.moc"
