// Adapters whose rotations are left for a device to fold: the same ones, in fewer bytes, and what they fold to.
#include "kernels/skew.h"
#include "core/adapter/skew_halves.h"
#include "core/engine/admission.h"
#include "peft_fixture.h"
#include "tests/core/engine/fixture.h"

#include <QtTest>

using namespace spartan;

namespace {

// All whose inputs make whole groups of 16.
const std::vector<Projection> kHiddenOnly = {Projection::q, Projection::k,    Projection::v,
                                             Projection::o, Projection::gate, Projection::up};

SyntheticSpec spec_of(const char* text) { return test::expect(parse_synthetic_spec(std::string("synthetic:") + text)); }

std::shared_ptr<const Adapter> made(const Model& model, const char* text, AdapterForm form) {
    return test::expect(make_synthetic_adapter(spec_of(text), 0, 3, 7, model, form));
}

std::shared_ptr<const Adapter> loaded(const PeftFiles& files, const Model& model, AdapterForm form) {
    files.write();
    Progress progress;
    return test::expect(load_adapter("a", files.dir(), model, progress, form));
}

std::shared_ptr<const Model> model_of(DType dtype) {
    return test::make_model(
        dtype, {.vocab = 260, .hidden = 256, .intermediate = 96, .heads = 4, .kv_heads = 2, .head_dim = 64}, 3);
}

// Largest difference of what two adapters' parts do to a vector of the base's.
double difference(const Adapter& a, const Adapter& b, const Model& model) {
    double worst = 0;
    for (size_t i = 0; i < a.parts.size(); ++i) {
        const oracle::Vec x = test_input(a.parts[i].in);
        worst = std::max(worst,
                         relative_difference(apply_part(a, a.parts[i], model, x), apply_part(b, b.parts[i], model, x)));
    }
    return worst;
}

// |found - wanted| / |R - I| of an adapter's rotations, over all; `wanted` is one in f32.
double rotation_error(const Adapter& found, const Adapter& wanted) {
    double error = 0, size = 0;
    for (size_t i = 0; i < wanted.parts.size(); ++i) {
        const int64_t g = wanted.parts[i].group, count = wanted.parts[i].in * g;
        const oracle::Vec a = part_values(found, found.parts[i].rotation, count),
                          b = part_values(wanted, wanted.parts[i].rotation, count);
        for (int64_t k = 0; k < count; ++k) {
            const double d = b[size_t(k)] - (k / g % g == k % g ? 1 : 0), off = a[size_t(k)] - b[size_t(k)];
            error += off * off;
            size += d * d;
        }
    }
    return std::sqrt(error / size);
}

}  // namespace

class SkewTest : public QObject {
    Q_OBJECT
private slots:
    void folds_to_the_same() {
        const auto model = model_of(DType::f32);
        for (const char* text : {"boft:1:b=32,m=2", "boft:1:b=8,m=1", "boft:1:b=8,m=4", "oft:1:b=64", "oft:1:b=16"}) {
            const auto folded = made(*model, text, AdapterForm::folded), left = made(*model, text, AdapterForm::skew);
            QVERIFY(left->skew_dtype == DType::f32 && folded->skew.empty());
            QCOMPARE(left->bytes(), folded->bytes());
            QCOMPARE(left->geometry(), folded->geometry());
            QVERIFY(left->orthogonality_error < 1e-12);
            test::expect(check_adapter(*left, *model));
            const auto now = test::expect(fold_rotations(*left, Progress()));
            QVERIFY(now->skew.empty() && now->bytes() == folded->bytes());
            for (size_t i = 0; i < folded->parts.size(); ++i) {
                const AdapterPart &a = folded->parts[i], &b = now->parts[i];
                QVERIFY(left->parts[i].skew >= 0 && left->parts[i].rotation >= int64_t(left->blob.size()));
                QVERIFY(b.skew < 0 && (a.gain >= 0) == (b.gain >= 0));
                const oracle::Vec want = part_values(*folded, a.rotation, a.in * a.group),
                                  got = part_values(*now, b.rotation, a.in * a.group);
                for (size_t k = 0; k < want.size(); ++k) QVERIFY(std::abs(got[k] - want[k]) < 2e-7);
            }
        }
    }

    // In bf16, b = 32 and m = 2, half of what the folded rotations take, and no less exact than they are.
    void half_the_bytes_no_less_exact() {
        const auto exact_model = model_of(DType::f32), model = model_of(DType::bf16);
        for (const char* text : {"boft:1:b=32,m=2", "boft:1:b=64,m=2", "oft:1:b=32"}) {
            const auto wanted = made(*exact_model, text, AdapterForm::folded);
            const auto folded = made(*model, text, AdapterForm::folded), left = made(*model, text, AdapterForm::skew);
            QVERIFY(left->skew_dtype == DType::bf16);
            const auto rotations = left->unfolded_bytes;
            QVERIFY(double(left->skew.size()) < 0.501 * double(rotations));
            // Rounded once more to R in bf16, as the CPU serves it; a GPU keeps D = R - I.
            const auto now = test::expect(fold_rotations(*left, Progress()));
            const double rounded = rotation_error(*folded, *wanted), through_skew = rotation_error(*now, *wanted);
            qInfo("%s: |R in bf16 - R| / |R - I| %.2g, through bf16 skew halves %.2g", text, rounded, through_skew);
            QVERIFY(through_skew <= 1.5 * rounded);
        }
    }

    void large_entries_keep_f32_and_larger_ones_are_folded() {
        const Model model = tiny_model(DType::bf16);
        PeftFiles files;
        make_boft(files, 8, 2, kHiddenOnly);
        QVERIFY(loaded(files, model, AdapterForm::skew)->skew_dtype == DType::f32);  // entries of about 0.35
        for (auto& [name, tensor] : files.tensors)
            if (name.ends_with("boft_R"))
                for (float& v : tensor.values) v *= 0.05f;
        QVERIFY(loaded(files, model, AdapterForm::skew)->skew_dtype == DType::bf16);
        files.at(module_name(1, Projection::v) + ".boft_R").values[1] = 40;
        const auto folded = loaded(files, model, AdapterForm::skew);
        QVERIFY(folded->skew.empty() && folded->unfolded_bytes == 0);
        QCOMPARE(difference(*folded, *loaded(files, model, AdapterForm::folded), model), 0.);
    }

    void from_folders() {
        const Model model = tiny_model();
        const auto check = [&](const PeftFiles& files) {
            const auto folded = loaded(files, model, AdapterForm::folded),
                       left = loaded(files, model, AdapterForm::skew);
            QVERIFY(!left->skew.empty());
            QCOMPARE(left->content_hash, folded->content_hash);
            const auto now = test::expect(fold_rotations(*left, Progress()));
            const double error = difference(*now, *folded, model);
            QVERIFY2(error < 1e-6, qPrintable(QString::number(error)));
        };
        PeftFiles boft;
        make_boft(boft, 8, 2, kHiddenOnly);
        check(boft);
        for (const bool share : {false, true})
            for (const bool constrained : {false, true}) {
                PeftFiles oft;
                make_oft(oft, 8, kAll, share);
                oft.config["coft"] = constrained;
                oft.config["eps"] = 0.3;
                check(oft);
            }
    }

    // What a device has no kernel for, or is no rotation of a linear layer, stays as it is served.
    void others_are_folded() {
        const Model model = tiny_model();
        PeftFiles series;
        make_oft(series, 8, kAll);
        series.config["use_cayley_neumann"] = true;
        series.config["num_cayley_neumann_terms"] = 5;
        QVERIFY(loaded(series, model, AdapterForm::skew)->skew.empty());
        PeftFiles lora;
        make_lora(lora, 4);
        QVERIFY(loaded(lora, model, AdapterForm::skew)->skew.empty());
        const auto wide =
            test::make_model(DType::f32, {.hidden = 600, .intermediate = 64, .heads = 4, .head_dim = 150});
        QVERIFY(made(*wide, "oft:1:b=300", AdapterForm::skew)->skew.empty());
    }

    // The CPU folds what is left, when it takes the adapter.
    void answers_of_the_cpu() {
        const auto model = model_of(DType::f32);
        std::vector<std::vector<Token>> answers;
        for (const AdapterForm form : {AdapterForm::folded, AdapterForm::skew}) {
            EngineOptions options = test::TestEngine::small_options();
            options.cuda_device = -1;
            test::TestEngine e(model, options);
            const AdapterId id = test::expect(e->add_adapter(made(*model, "boft:1:b=32,m=2", form)));
            answers.push_back(e.run_one(test::make_request({1, 2, 3, 4, 5}, id, 12)).output);
        }
        QCOMPARE(answers[0], answers[1]);
    }

    void bad_places_are_refused() {
        const auto model = model_of(DType::f32);
        const auto left = made(*model, "boft:1:b=32,m=2", AdapterForm::skew);
        const auto refused = [&](const std::function<void(Adapter&)>& change) {
            Adapter changed = *left;
            change(changed);
            return !check_adapter(changed, *model);
        };
        QVERIFY(!refused([](Adapter&) {}));
        QVERIFY(refused([](Adapter& a) { a.parts[0].rotation = 0; }));
        QVERIFY(refused([](Adapter& a) { a.parts[0].rotation += 32; }));
        QVERIFY(refused([](Adapter& a) { a.parts.back().skew += 8; }));
        QVERIFY(refused([](Adapter& a) { a.parts[0].skew += 1; }));
        QVERIFY(refused([](Adapter& a) { a.parts[0].group = 32; }));
        QVERIFY(refused([](Adapter& a) { a.unfolded_bytes -= 64; }));
        QVERIFY(refused([](Adapter& a) { a.skew.resize(a.skew.size() - 4); }));
    }
};

QTEST_GUILESS_MAIN(SkewTest)
#include "skew_test.moc"
