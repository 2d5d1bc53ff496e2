#include "kernels/cuda/embed_own.h"

#include "kernels/cuda/rotate.h"
#include "tiles_on_device.h"

using namespace spartan;

namespace {

// Everything an adapter can bring to the embedding; 0 and false: absent.
struct EmbeddingSpec {
    bool copy = false;
    std::vector<int32_t> tokens{};
    int64_t group = 0;
    bool pack = false;
    int rank = 0;
    bool gain = false, bias = false;
};

template <class T>
struct Embedding {
    EmbeddingSpec spec;
    std::vector<T> copy, token_rows, r, a, b_t;
    std::vector<float> gain, bias;
    std::vector<std::unique_ptr<DeviceMemory>> stored;
    std::unique_ptr<DeviceArray<CudaTable>> table;

    template <class V>
    V* store(const std::vector<V>& values) {
        stored.push_back(std::make_unique<DeviceMemory>(int64_t(values.size() * sizeof(V))));
        CHECK_CUDA(cudaMemcpy(stored.back()->data(), values.data(), values.size() * sizeof(V), cudaMemcpyHostToDevice));
        CHECK_CUDA(cudaDeviceSynchronize());  // a copy from pageable memory may still be on its way
        return stored.back()->template as<V>();
    }
};

template <class T>
Embedding<T> random_embedding(CudaDevice& device, const EmbeddingSpec& spec, int64_t vocab, int64_t hidden) {
    Embedding<T> e;
    e.spec = spec;
    CudaTable table;
    if (spec.copy) table.copy = e.store(e.copy = random_values<T>(size_t(vocab * hidden), 1));
    if (!spec.tokens.empty()) {
        table.token_rows = e.store(e.token_rows = random_values<T>(spec.tokens.size() * size_t(hidden), 2));
        table.tokens = e.store(spec.tokens);
        table.num_tokens = int32_t(spec.tokens.size());
    }
    if (spec.group > 0) {
        e.r = random_values<T>(size_t(hidden * spec.group), 3, 0.2f);
        table.part.rotation = e.store(e.r);
        table.part.group = int32_t(spec.group);
        if constexpr (is_16_bit<T>)
            if (spec.pack) {
                e.stored.push_back(std::make_unique<DeviceMemory>(packed_rotation_bytes(hidden, spec.group)));
                pack_rotation(device, e.stored.back()->template as<T>(), static_cast<const T*>(table.part.rotation),
                              hidden, spec.group);
                table.part.rotation = e.stored.back()->data();
                table.part.rotation_packed = 1;
            }
    }
    if (spec.rank > 0) {
        table.part.a = e.store(e.a = random_values<T>(size_t(vocab * spec.rank), 4));
        table.part.b_t = e.store(e.b_t = random_values<T>(size_t(spec.rank * hidden), 5));
        table.part.rank = spec.rank;
        table.part.scale = 0.75f;
    }
    if (spec.gain) table.part.gain = e.store(e.gain = random_values<float>(size_t(hidden), 6));
    if (spec.bias) table.part.bias = e.store(e.bias = random_values<float>(size_t(hidden), 7));
    e.table = std::make_unique<DeviceArray<CudaTable>>(std::vector<CudaTable>{table});
    return e;
}

template <class T>
std::vector<double> embedded(const Embedding<T>& e, const std::vector<T>& base, int32_t token, int64_t hidden,
                             double multiplier) {
    const T* row = (e.spec.copy ? e.copy.data() : base.data()) + token * hidden;
    for (size_t i = 0; i < e.spec.tokens.size(); ++i)
        if (e.spec.tokens[i] == token) row = e.token_rows.data() + int64_t(i) * hidden;
    std::vector<double> want;
    for (int64_t c = 0; c < hidden; ++c) {
        double v = double(to_float(row[c]));
        if (const int64_t group = e.spec.group; group > 0) {
            v = 0;
            for (int64_t u = 0; u < group; ++u)
                v += double(to_float(row[c / group * group + u])) *
                     double(to_float(e.r[size_t((c / group * group + u) * group + c % group)]));
        }
        for (int r = 0; r < e.spec.rank; ++r)
            v += 0.75 * double(to_float(e.a[size_t(token * e.spec.rank + r)])) *
                 double(to_float(e.b_t[size_t(r * hidden + c)]));
        if (e.spec.gain) v *= double(e.gain[size_t(c)]);
        if (e.spec.bias) v += double(e.bias[size_t(c)]);
        want.push_back(multiplier * v);
    }
    return want;
}

template <class T>
void check_embed_own(int64_t hidden, const std::vector<EmbeddingSpec>& specs, const std::vector<TileSpec>& tile_specs) {
    constexpr int32_t kVocab = 40;
    constexpr float kMultiplier = 12.5f;
    CudaDevice device;
    std::vector<Embedding<T>> adapters;
    for (const EmbeddingSpec& s : specs) adapters.push_back(random_embedding<T>(device, s, kVocab, hidden));
    const int64_t rows = rows_of(tile_specs);
    std::vector<int32_t> ids;
    for (int64_t i = 0; i < rows; ++i) ids.push_back(int32_t(i * 7 % kVocab));
    std::vector<const CudaTable*> tables;
    for (const TileSpec& t : tile_specs)
        tables.push_back(t.adapter < 0 ? nullptr : adapters[size_t(t.adapter)].table->data());
    tables.resize(tile_specs.size() + 2, nullptr);
    const auto tiles = upload_tiles(tile_specs, std::vector<CudaPart*>(specs.size()), 2);
    const auto base = random_values<T>(size_t(kVocab * hidden), 8);
    const auto before = random_values<float>(size_t(rows * hidden), 9);
    const DeviceArray<T> device_base(base);
    const DeviceArray<float> x(before);
    const DeviceArray<int32_t> device_ids(ids);
    const DeviceArray<const CudaTable*> device_tables(tables);
    embed_own<T>(device, x.data(), device_base.data(), device_ids.data(), tiles.data(), device_tables.data(),
                 int(tiles.size()), hidden, kMultiplier);
    device.synchronize();
    const auto got = x.read();
    int64_t row = 0;
    for (const TileSpec& t : tile_specs)
        for (const int64_t end = row + t.rows; row < end; ++row) {
            const auto one = rows_between(got, row, row + 1, hidden);
            if (t.adapter < 0) {
                QVERIFY(same_bits(one, rows_between(before, row, row + 1, hidden)));
                continue;
            }
            const auto want = embedded(adapters[size_t(t.adapter)], base, ids[size_t(row)], hidden, kMultiplier);
            const double error = relative_error(one, want);
            QVERIFY2(error < kTolerance<T>, qPrintable(QStringLiteral("hidden %1, row %2, adapter %3: error %4")
                                                           .arg(hidden)
                                                           .arg(row)
                                                           .arg(t.adapter)
                                                           .arg(error)));
        }
}

}  // namespace

class CudaEmbedOwnTest : public QObject {
    Q_OBJECT
private slots:
    void embeddings_of_adapters() {
        SKIP_WITHOUT_GPU();
        const std::vector<EmbeddingSpec> specs{
            {.copy = true},
            {.tokens = {0, 7, 21, 39}},
            {.copy = true, .tokens = {14}},
            {.group = 24},
            {.group = 16, .pack = true},
            {.rank = 5},
            {.gain = true, .bias = true},
            {.copy = true, .tokens = {1, 2, 3, 14, 30}, .group = 16, .rank = 8, .gain = true},
        };
        std::vector<TileSpec> tiles{{1, 0}, {3, -1}};
        for (int i = 0; i < int(specs.size()); ++i) tiles.push_back({i == 3 ? 64 : 20 + i, i});
        for (const int64_t hidden : {48, 576}) {
            check_embed_own<bf16>(hidden, specs, tiles);
            check_embed_own<f16>(hidden, specs, tiles);
            check_embed_own<float>(hidden, specs, tiles);
        }
    }
};

QTEST_GUILESS_MAIN(CudaEmbedOwnTest)
#include "embed_own_test.moc"
